"""What passes from step to step of a recipe, and what every step may ask of its surroundings."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from penjing.types import LogRow

if TYPE_CHECKING:
    from penjing.recipe import Sparsify, Target
    from penjing.structure import Surgery
    from penjing.techniques.cluster import Palette
    from penjing.training import Progress
    from penjing.workload import ExampleInputs, Workload


@dataclass(frozen=True)
class State:
    """The model as the steps so far have left it.

    model: a private copy, which a technique may change. masks: parameter name -> boolean mask of the weights that live.
    surgery: what was cut out of the original, None while nothing was. graph: whether the model is a rewritten graph
    (its class is no longer the user's). ramps: what is to become sparse while the next step trains. palettes: parameter
    name -> the palette that its weights lie on.
    """

    model: nn.Module
    example: "ExampleInputs"
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    surgery: "Surgery | None" = None
    graph: bool = False
    rows: tuple[LogRow, ...] = ()
    ramps: "tuple[Sparsify, ...]" = ()
    palettes: "Mapping[str, Palette]" = field(default_factory=dict)

    def log(self, step: str, what: str, *, fell_back: bool = False, proof: str | None = None) -> "State":
        """Give the same state with one more row in its log."""
        return replace(self, rows=(*self.rows, LogRow(step, what, fell_back, proof)))


@dataclass(frozen=True)
class Context:
    """What surrounds a step: the data, the original model (its names are the user's), the target and the seed.

    consume: whether the model is nobody's else, so that its tensors may give way to their slices. runtime: the name of
    the runtime that the model is for, where it is known.
    """

    workload: "Workload | None"
    original: nn.Module
    target: "Target | None" = None
    seed: int = 0
    device: torch.device | None = None
    prefer: str = "module"
    progress: "Progress | None" = None
    resume_dir: Path | None = None
    consume: bool = False
    runtime: str | None = None
