"""Models of transformers from the numbers of a configuration, one row of a table each."""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn

from benchmarks.zoo import Entry
from benchmarks.zoo.torchvision_import import torchvision


@cache
def transformers() -> Any:
    """The transformers package, which imports torchvision where it is installed."""
    if find_spec("torchvision"):
        torchvision()
    import transformers

    transformers.logging.set_verbosity_error()
    return transformers


class Logits(nn.Module):
    """A model of which only the logits count: what it returns beside them, such as hidden states, may change."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(**inputs).logits
        return logits


def model(kind: str, numbers: dict[str, Any], wrap: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    """How to build a class of transformers from the numbers of its configuration."""

    def build() -> nn.Module:
        made = getattr(transformers(), kind)
        return wrap(made(made.config_class(**numbers)))

    return build


def rows(
    family: str,
    example: Callable[[], Any],
    base: dict[str, Any],
    kinds: dict[str, dict[str, Any]],
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
) -> list[Entry]:
    """One entry for each class, built from the numbers of `base` and its own."""
    return [
        Entry(f"transformers/{kind}", family, model(kind, base | numbers, wrap), example, needs="transformers")
        for kind, numbers in kinds.items()
    ]
