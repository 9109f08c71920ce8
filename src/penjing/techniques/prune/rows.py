"""Rows of the regression that a layer solves: at some of its output positions, what it reads and what it gives there.

Positions are drawn first and their patches gathered after, so that the memory is that of the rows that are kept: all
patches of a 3x3 convolution would be nine times its input.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx
from torch.nn import functional as F  # noqa: N812

Places: TypeAlias = tuple[Tensor, ...]
"""Output positions, one index tensor [rows] for each dimension but that of the channels."""

LINEAR, CONV = torch.ops.aten.linear.default, torch.ops.aten.conv2d.default


def has_rows(node: fx.Node, output: Any) -> bool:
    """Tell whether a node is a linear layer or a two-dimensional convolution on a batch."""
    return (node.target is LINEAR and output.ndim >= 2) or (node.target is CONV and output.ndim == 4)


def draw_places(node: fx.Node, output: Tensor, count: int, generator: torch.Generator) -> Places:
    """Draw at most `count` positions of an output, without replacement."""
    shape = output.shape[:-1] if node.target is LINEAR else (output.shape[0], *output.shape[2:])
    chosen = torch.randperm(output.numel() // _channels(node, output), generator=generator)[:count]
    return tuple(torch.unravel_index(chosen.to(output.device), shape))


def outputs_at(node: fx.Node, output: Tensor, places: Places) -> Tensor:
    """Give a layer's outputs at some positions: [rows, channels]."""
    return output[places] if node.target is LINEAR else output.movedim(1, -1)[places]


def inputs_at(node: fx.Node, arguments: Sequence[Any], places: Places) -> Tensor:
    """Give what a layer's weight matrix multiplies at some positions: [rows, inputs * kernel].

    arguments: the input, the weight, and the rest of what the operator is called with.
    """
    x, weight = arguments[:2]
    if node.target is LINEAR:
        rows: Tensor = x[places]
        return rows
    stride, padding, dilation = (
        _pair(arguments[i]) if len(arguments) > i else (default, default) for i, default in ((3, 1), (4, 0), (5, 1))
    )
    x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    for dim in (0, 1):  # a view [n, inputs, height, width, kernel height, kernel width]: nothing is copied yet
        x = x.unfold(2 + dim, dilation[dim] * (weight.shape[2 + dim] - 1) + 1, stride[dim])
    n, i, j = places
    return x[:, :, :, :, :: dilation[0], :: dilation[1]].movedim(1, 3)[n, i, j].flatten(1)


def _channels(node: fx.Node, output: Tensor) -> int:
    return output.shape[-1 if node.target is LINEAR else 1]


def _pair(value: Sequence[int]) -> tuple[int, int]:
    return (value[0], value[-1])
