"""Which weights go together: single ones, blocks, kernels, filters and channels, or the rest of every N of M.

unstructured      each weight by itself
2:4  1:4  4:8     of every M weights along the inputs of an output, N stay
4x1  1x4  16x1    blocks of A rows and B columns of the weight as a matrix [outputs, inputs * kernel]
kernels           the window [kh, kw] of one input and one output (Distiller's 2D structures)
filters, rows     all weights of one output (3D structures)
channels          all weights of one input
columns           one column of the matrix [outputs, inputs * kernel]
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from penjing.errors import RecipeError

UNSTRUCTURED = "unstructured"


@dataclass(frozen=True)
class OfEvery:
    """Of every `group` weights along the inputs, `keep` stay."""

    keep: int
    group: int

    @property
    def amount(self) -> float:
        """The share of the weights that goes."""
        return 1 - self.keep / self.group

    def mask(self, name: str, scores: Tensor, alive: Tensor) -> Tensor:
        """Keep the highest scores of each group; what is gone already counts as the lowest. Shape of the weight.

        Raises RecipeError where the inputs are no multiple of the group.

        >>> OfEvery(2, 4).mask("w", torch.tensor([[1.0, 4.0, 3.0, 2.0]]), torch.ones(1, 4, dtype=torch.bool))
        tensor([[False,  True,  True, False]])
        """
        if scores.ndim < 2 or scores.shape[1] % self.group:
            raise RecipeError(
                f"Sparsify: pattern='{self.keep}:{self.group}' takes groups of {self.group} inputs, but {name} has "
                f"shape {tuple(scores.shape)}; leave it out with parameters=[...], or choose another pattern"
            )
        ranked = scores.masked_fill(~alive, -math.inf).movedim(1, -1)
        groups = ranked.reshape(-1, self.group)
        keep = torch.zeros_like(groups, dtype=torch.bool)
        keep.scatter_(1, groups.topk(self.keep, dim=1).indices, True)
        return keep.view(ranked.shape).movedim(-1, 1) & alive


Units = Callable[[str, Tensor], Tensor]
"""The number of the unit that each weight belongs to, int64 of the weight's shape, for a named weight."""


def find_pattern(pattern: str) -> Units | OfEvery:
    """Read the pattern of a step; raises RecipeError for an unknown or impossible one.

    >>> find_pattern("filters")("w", torch.zeros(2, 3)).tolist()
    [[0, 0, 0], [1, 1, 1]]
    """
    if pattern in _UNITS:
        return _UNITS[pattern]
    if found := re.fullmatch(r"(\d+):(\d+)", pattern):
        keep, group = map(int, found.groups())
        if not 0 < keep < group:
            raise RecipeError(f"Sparsify: pattern={pattern!r} must keep at least one of more, as '2:4' does")
        return OfEvery(keep, group)
    if sizes := block_sizes(pattern):
        return lambda name, weight: _blocks(name, weight, *sizes)
    known = ", ".join(_UNITS)
    raise RecipeError(f"Sparsify: pattern={pattern!r} is unknown; use {known}, N:M such as '2:4', or AxB such as '4x1'")


def block_sizes(pattern: str) -> tuple[int, int] | None:
    """Rows and columns of the blocks of a pattern; None where it has none.

    >>> block_sizes("4x1"), block_sizes("2:4")
    ((4, 1), None)
    """
    found = re.fullmatch(r"(\d+)x(\d+)", pattern)
    rows, columns = map(int, found.groups()) if found else (0, 0)
    return (rows, columns) if rows and columns else None


def _blocks(name: str, weight: Tensor, rows: int, columns: int) -> Tensor:
    height, width = len(weight), weight[0].numel()
    if height % rows or width % columns:
        raise RecipeError(
            f"Sparsify: pattern='{rows}x{columns}' does not divide {name}, which is {height} x {width} as a matrix; "
            "leave it out with parameters=[...], or choose another pattern"
        )
    i, j = torch.arange(height) // rows, torch.arange(width) // columns
    return (i[:, None] * (width // columns) + j).view(weight.shape)


def _along(*dims: int) -> Units:
    """Weights that agree in these dimensions are one unit."""

    def units(name: str, weight: Tensor) -> Tensor:
        if weight.ndim <= max(dims):
            raise RecipeError(
                f"Sparsify: {name} has shape {tuple(weight.shape)} and no dimension {max(dims)}; leave it out with "
                "parameters=[...], or choose another pattern"
            )
        sizes = [size if dim in dims else 1 for dim, size in enumerate(weight.shape)]
        return torch.arange(math.prod(sizes)).view(sizes).expand(weight.shape)

    return units


_UNITS: dict[str, Units] = {
    UNSTRUCTURED: lambda name, weight: torch.arange(weight.numel()).view(weight.shape),
    "filters": _along(0),
    "rows": _along(0),
    "channels": _along(1),
    "kernels": _along(0, 1),
    "columns": lambda name, weight: torch.arange(weight[0].numel()).view(weight.shape[1:]).expand(weight.shape),
}


def sum_per_unit(values: Tensor, units: Tensor) -> Tensor:
    """The sum of the values of each unit, [units]; gradients pass.

    >>> sum_per_unit(torch.tensor([[1.0, 3.0], [5.0, 7.0]]), torch.tensor([[0, 0], [1, 1]]))
    tensor([ 4., 12.])
    """
    return values.new_zeros(_count(units)).index_add(0, units.flatten().to(values.device), values.flatten())


def per_unit(values: Tensor, units: Tensor) -> Tensor:
    """The mean of the values of each unit, [units]: tensors whose units have other sizes compare.

    >>> per_unit(torch.tensor([[1.0, 3.0], [5.0, 7.0]]), torch.tensor([[0, 0], [1, 1]]))
    tensor([2., 6.])
    """
    if _count(units) == values.numel():
        return values.flatten()  # as it is, bit for bit
    sizes = torch.bincount(units.flatten().to(values.device), minlength=_count(units))
    return sum_per_unit(values, units) / sizes


def _count(units: Tensor) -> int:
    return int(units.max()) + 1 if units.numel() else 0
