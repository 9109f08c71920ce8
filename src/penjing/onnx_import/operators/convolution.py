"""Convolutions, and the padding that ONNX and torch say differently."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from penjing.errors import CaptureError
from penjing.onnx_import.node import Node
from penjing.onnx_import.operators.table import operator

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def begins_and_ends(node: Node, sizes: Sequence[Any], window: Sequence[int]) -> tuple[list[Any], list[Any]]:
    """What a window adds before and after each spatial dimension, whatever of pads and auto_pad says it.

    window is the reach of the window in each dimension, dilation included.
    """
    rank = len(window)
    auto = node.get("auto_pad", "NOTSET")
    if auto == "NOTSET":
        pads = list(node.get("pads", (0,) * (2 * rank)))
        return pads[:rank], pads[rank:]
    if auto == "VALID":
        return [0] * rank, [0] * rank
    strides = node.get("strides", (1,) * rank)
    totals = []
    for size, reach, stride in zip(sizes, window, strides, strict=True):
        places = (size + stride - 1) // stride
        totals.append(torch.sym_max((places - 1) * stride + reach - size, 0))
    less = [total // 2 for total in totals]
    more = [total - half for total, half in zip(totals, less, strict=True)]
    return (less, more) if auto == "SAME_UPPER" else (more, less)


def in_torch_order(begins: Sequence[Any], ends: Sequence[Any]) -> list[Any]:
    """Pads as F.pad takes them: pairs, the last dimension first."""
    return [size for pair in reversed(list(zip(begins, ends, strict=True))) for size in pair]


def reach(node: Node, kernel: Sequence[int]) -> list[int]:
    """How many places a window covers in each dimension."""
    dilations = node.get("dilations", (1,) * len(kernel))
    return [step * (size - 1) + 1 for step, size in zip(dilations, kernel, strict=True)]


@operator("Conv")
def conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolution of 1 to 3 dimensions, with groups."""
    rank = weight.ndim - 2
    if rank not in _CONV:
        raise CaptureError(f"{node} convolves over {rank} dimensions; torch knows 1 to 3")
    begins, ends = begins_and_ends(node, x.shape[2:], reach(node, weight.shape[2:]))
    if begins != ends:
        x = F.pad(x, in_torch_order(begins, ends))
        begins = [0] * rank
    ones = (1,) * rank
    strides, dilations = node.get("strides", ones), node.get("dilations", ones)
    return _CONV[rank](x, weight, bias, strides, begins, dilations, node.get("group", 1))


@operator("ConvTranspose")
def conv_transpose(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Transposed convolution of 1 to 3 dimensions; what output_shape or uneven pads ask for is cropped."""
    rank = weight.ndim - 2
    ones = (1,) * rank
    strides, dilations = node.get("strides", ones), node.get("dilations", ones)
    extra = node.get("output_padding", (0,) * rank)
    shape, auto = node.get("output_shape"), node.get("auto_pad", "NOTSET")
    pads = list(node.get("pads", (0,) * (2 * rank)))
    if shape is not None or auto.startswith("SAME"):
        window = reach(node, weight.shape[2:])
        begins, ends = [], []
        for i, size in enumerate(x.shape[2:]):
            wanted = shape[i] if shape is not None else size * strides[i]
            total = strides[i] * (size - 1) + extra[i] + window[i] - wanted
            half = total // 2
            begins.append(half if auto == "SAME_UPPER" else total - half)
            ends.append(total - half if auto == "SAME_UPPER" else half)
    else:
        begins, ends = pads[:rank], pads[rank:]
    group = node.get("group", 1)
    # torch has one padding for both ends; what the far end lacks is extra output, where the stride leaves room for it.
    more = [first - last + add for first, last, add in zip(begins, ends, extra, strict=True)]
    if all(isinstance(a, int) and a >= 0 for a in begins) and all(
        isinstance(add, int) and 0 <= add < max(stride, dilation)
        for add, stride, dilation in zip(more, strides, dilations, strict=True)
    ):
        return _TRANSPOSED[rank](x, weight, bias, strides, begins, more, group, dilations)
    y = _TRANSPOSED[rank](x, weight, bias, strides, 0, extra, group, dilations)
    return F.pad(y, [-size for size in in_torch_order(begins, ends)])
