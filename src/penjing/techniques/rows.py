"""Rows of the regression that a layer solves: at some of its output positions, what it reads and what it gives there.

Positions are drawn first and their patches gathered after, so that the memory is that of the rows that are kept: all
patches of a 3x3 convolution would be nine times its input.
"""

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from penjing.structure.layers import Layer

Places: TypeAlias = tuple[Tensor, ...]
"""Output positions, one index tensor [rows] for each dimension but that of the channels."""


def is_regression(layer: Layer, weight: Tensor, output: Tensor) -> bool:
    """Tell whether a layer's outputs are rows times a matrix: a product with a matrix, or a batched convolution."""
    if layer.axis == -1:
        return weight.ndim == 2 and output.ndim >= 2
    return layer.contracted == 1 and output.ndim == weight.ndim


def as_matrix(layer: Layer, weight: Tensor) -> Tensor:
    """Give a layer's weight as [outputs, inputs * kernel]; `from_matrix` gives it back."""
    return weight.flatten(1) if layer.contracted == 1 else weight.T


def from_matrix(layer: Layer, matrix: Tensor, weight: Tensor) -> Tensor:
    """Give a matrix [outputs, inputs * kernel] in the shape and dtype of a layer's weight."""
    shaped = matrix.reshape(weight.shape) if layer.contracted == 1 else matrix.T
    return shaped.to(weight.dtype).contiguous()


def draw_places(layer: Layer, output: Tensor, count: int, generator: torch.Generator) -> Places:
    """Draw at most `count` positions of an output, without replacement."""
    shape = output.movedim(layer.axis, -1).shape[:-1]
    chosen = torch.randperm(shape.numel(), generator=generator)[:count]
    return tuple(torch.unravel_index(chosen.to(output.device), shape))


def outputs_at(layer: Layer, output: Tensor, places: Places) -> Tensor:
    """Give a layer's outputs at some positions: [rows, channels]."""
    return output.movedim(layer.axis, -1)[places]


def inputs_at(layer: Layer, x: Tensor, weight: Tensor, places: Places) -> Tensor:
    """Give what a layer's weight matrix multiplies at some positions: [rows, inputs * kernel]."""
    if layer.axis == -1:
        rows: Tensor = x[places]
        return rows
    sizes = weight.shape[2:]
    strides, dilations = (_each(layer.settings[name], len(sizes)) for name in ("stride", "dilation"))
    x = F.pad(x, layer.padding(weight))
    for i, size in enumerate(sizes):  # a view [n, inputs, *outputs' sizes, *kernel]: nothing is copied yet
        x = x.unfold(2 + i, dilations[i] * (size - 1) + 1, strides[i])
    for dim, dilation in enumerate(dilations, start=-len(sizes)):
        x = x.movedim(dim, -1)[..., ::dilation].movedim(-1, dim)
    return x.movedim(1, 1 + len(sizes))[places].flatten(1)


def _each(value: Sequence[int], count: int) -> list[int]:
    return list(value) * count if len(value) == 1 else list(value)
