"""What may stay of a weight [outputs, inputs]: each budget picks the highest scores that it allows.

A budget counts by shares, so that it means the same for a block of the inputs or of the outputs. `keep` gives the mask
of the highest scores; `groups` the scores as [groups, size], in each of which so many compete. `unit` is how many
inputs, one after the other, are chosen among or together; `by_row`, whether outputs have nothing to do with each other.
"""

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from penjing.errors import RecipeError, ShapeError


@dataclass(frozen=True)
class PerLayer:
    """A share of all weights stays, wherever they are.

    >>> PerLayer(0.5).keep(torch.tensor([[4.0, 3.0], [2.0, 1.0]]))
    tensor([[ True,  True],
            [False, False]])
    """

    density: float
    unit = 1
    by_row = False

    def __post_init__(self) -> None:
        _check(self.density)

    def groups(self, scores: Tensor) -> tuple[Tensor, int]:
        return scores.reshape(1, -1), round(self.density * scores.numel())

    def keep(self, scores: Tensor) -> Tensor:
        return _highest(*self.groups(scores)).view(scores.shape)


@dataclass(frozen=True)
class PerRow:
    """The same share of the weights of each output stays.

    >>> PerRow(0.5).keep(torch.tensor([[4.0, 3.0], [2.0, 1.0]]))
    tensor([[ True, False],
            [ True, False]])
    """

    density: float
    unit = 1
    by_row = True

    def __post_init__(self) -> None:
        _check(self.density)

    def groups(self, scores: Tensor) -> tuple[Tensor, int]:
        return scores, round(self.density * scores.shape[1])

    def keep(self, scores: Tensor) -> Tensor:
        return _highest(*self.groups(scores))


@dataclass(frozen=True)
class NofM:
    """Of every `unit` inputs of an output, one after the other, `count` stay.

    >>> NofM(1, 2).keep(torch.tensor([[4.0, 3.0, 1.0, 2.0]]))
    tensor([[ True, False, False,  True]])
    """

    count: int
    unit: int
    by_row = True

    def groups(self, scores: Tensor) -> tuple[Tensor, int]:
        if scores.shape[1] % self.unit:
            raise ShapeError(
                f"budget: {self.count}:{self.unit} takes groups of {self.unit} inputs, and there are "
                f"{scores.shape[1]}; choose another pattern"
            )
        return scores.reshape(-1, self.unit), self.count

    def keep(self, scores: Tensor) -> Tensor:
        return _highest(*self.groups(scores)).view(scores.shape)


@dataclass(frozen=True)
class Blocks:
    """A share of the blocks of `rows` outputs and `unit` inputs stays, scored by the sums of their scores.

    >>> Blocks(2, 1, 0.5).keep(torch.tensor([[4.0, 3.0], [2.0, 5.0]]))
    tensor([[False,  True],
            [False,  True]])
    """

    rows: int
    unit: int
    density: float
    by_row = False

    def __post_init__(self) -> None:
        _check(self.density)

    def keep(self, scores: Tensor) -> Tensor:
        height, width = scores.shape
        if height % self.rows or width % self.unit:
            raise ShapeError(
                f"budget: blocks of {self.rows}x{self.unit} do not divide a weight of {height} x {width}; choose "
                "another pattern"
            )
        sums = scores.view(height // self.rows, self.rows, width // self.unit, self.unit).sum((1, 3))
        kept = PerLayer(self.density).keep(sums)
        return kept.repeat_interleave(self.rows, 0).repeat_interleave(self.unit, 1)


Competing: TypeAlias = PerLayer | PerRow | NofM
"""Budgets under which single weights compete."""
Budget: TypeAlias = Competing | Blocks


def _check(density: float) -> None:
    if not 0 <= density <= 1:
        raise RecipeError(f"budget: density={density!r} must lie in [0, 1]; 0.2 keeps one weight in five")


def _highest(scores: Tensor, count: int) -> Tensor:
    mask = torch.zeros_like(scores, dtype=torch.bool)
    return mask.scatter_(1, scores.topk(count, dim=1, sorted=False).indices, True)
