"""Models of many families with random weights, to see how far a technique reaches beyond what it was written for.

    from benchmarks.zoo import ZOO
    model, example = ZOO["torchvision/resnet18"].make(seed=0)

A module of this package that has a sequence `ENTRIES` is part of the zoo. Modules import what their models need only
when a model is built, so that the list of names costs nothing.
"""

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.zoo.torchvision_import import torchvision


@dataclass(frozen=True)
class Entry:
    """One architecture: how to build it with fresh random weights, and what to call it with.

    example: a fresh call, in any form that `penjing.workload.ExampleInputs.of` reads. needs: the package that must be
    installed, beside torch. held_out: the model was named before anyone had seen how it fares, and nothing was mended
    for it before its first result was written down.
    """

    name: str
    family: str
    build: Callable[[], nn.Module]
    example: Callable[[], Any]
    note: str = ""
    needs: str = ""
    held_out: bool = False

    @property
    def missing(self) -> bool:
        """Whether the package that the model needs is not installed."""
        return bool(self.needs) and importlib.util.find_spec(self.needs) is None

    def make(self, seed: int = 0) -> tuple[nn.Module, Any]:
        """The model in eval mode, and its example inputs."""
        if self.needs and importlib.util.find_spec("torchvision") is not None:
            torchvision()  # timm and transformers import it where it is installed
        torch.manual_seed(seed)
        return self.build().eval(), self.example()


def image(size: int, channels: int = 3, batch: int = 2) -> Callable[[], torch.Tensor]:
    """Random images [batch, channels, size, size]."""
    return lambda: torch.randn(batch, channels, size, size)


def normal(*shape: int) -> Callable[[], torch.Tensor]:
    """A random tensor."""
    return lambda: torch.randn(*shape)


def tokens(vocabulary: int, *shape: int) -> Callable[[], torch.Tensor]:
    """Random token numbers below `vocabulary`."""
    return lambda: torch.randint(vocabulary, shape)


def _entries() -> Iterator[Entry]:
    for found in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{found.name}")
        yield from getattr(module, "ENTRIES", ())


ZOO: dict[str, Entry] = {}
for _entry in _entries():
    if _entry.name in ZOO:
        raise ValueError(f"two models of the zoo are called {_entry.name!r}")
    ZOO[_entry.name] = _entry
