"""Pools over windows and over all space."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from penjing.onnx_import.node import Node
from penjing.onnx_import.operators.convolution import begins_and_ends, in_torch_order, reach
from penjing.onnx_import.operators.table import operator

_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_MAXIMUM = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_ADAPTIVE = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


def _window(node: Node, x: Tensor) -> tuple[list[int], list[int], list[int], list[Any], list[Any]]:
    """Kernel, strides, dilations, and the pads before and after, with what ceil_mode adds behind."""
    kernel = list(node.get("kernel_shape"))
    ones = [1] * len(kernel)
    strides, dilations = list(node.get("strides", ones)), list(node.get("dilations", ones))
    window = reach(node, kernel)
    begins, ends = begins_and_ends(node, x.shape[2:], window)
    return kernel, strides, dilations, begins, list(ends)


def _overhang(node: Node, x: Tensor, window: list[int], strides: list[int], begins: Any, ends: Any) -> list[Any]:
    """How far the last window reaches beyond the padded input with ceil_mode; one that starts beyond it is none."""
    if not node.get("ceil_mode", 0):
        return [0] * len(window)
    over = []
    for size, span, stride, first, last in zip(x.shape[2:], window, strides, begins, ends, strict=True):
        room = size + first + last - span
        places = -(-room // stride)
        if places * stride >= size + first:
            places = places - 1
        over.append(torch.sym_max(places * stride - room, 0))
    return over


def _even(begins: list[Any], ends: list[Any], kernel: list[int]) -> bool:
    """Whether a pool of torch takes these pads: the same at both ends, and at most half a window."""
    return begins == ends and all(isinstance(a, int) and 2 * a <= size for a, size in zip(begins, kernel, strict=True))


@operator("MaxPool")
def max_pool(node: Node, x: Tensor) -> Any:
    """Largest element of each window; where it is in the flat tensor, where that is asked for."""
    kernel, strides, dilations, begins, ends = _window(node, x)
    over = _overhang(node, x, reach(node, kernel), strides, begins, ends)
    more = [end + extra for end, extra in zip(ends, over, strict=True)]
    rank = len(kernel)
    wants_places = len(node.outputs) > 1 and bool(node.outputs[1])
    if wants_places:
        return _with_places(node, x, kernel, strides, dilations, begins, more)
    if not x.is_floating_point():
        y = max_pool(node, x.to(torch.float32))
        return y.to(x.dtype)
    if _even(begins, ends, kernel) and all(isinstance(extra, int) and extra == 0 for extra in over):
        return _MAXIMUM[rank](x, kernel, strides, begins, dilations)
    if _even(begins, ends, kernel):
        return _MAXIMUM[rank](x, kernel, strides, begins, dilations, ceil_mode=True)
    padded = F.pad(x, in_torch_order(begins, more), value=float("-inf"))
    return _MAXIMUM[rank](padded, kernel, strides, 0, dilations)


def _with_places(node: Node, x: Tensor, kernel: Any, strides: Any, dilations: Any, begins: Any, ends: Any) -> Any:
    rank = len(kernel)
    padded = F.pad(x.double(), in_torch_order(begins, ends), value=float("-inf"))
    y, places = _MAXIMUM[rank](padded, kernel, strides, 0, dilations, return_indices=True)
    inner, sizes = list(padded.shape[2:]), list(x.shape[2:])
    coordinates = []
    for size, begin in zip(reversed(inner), reversed(begins), strict=True):
        coordinates.append(places % size - begin)
        places = places // size
    coordinates.reverse()
    order = range(rank) if not node.get("storage_order", 0) else [*range(rank - 2), rank - 1, rank - 2]
    flat = torch.arange(x.shape[0] * x.shape[1], device=x.device).reshape(*x.shape[:2], *(1,) * rank)
    for i in order:
        flat = flat * sizes[i] + coordinates[i]
    return y.to(x.dtype), flat


@operator("AveragePool")
def average_pool(node: Node, x: Tensor) -> Tensor:
    """Mean of each window; count_include_pad says whether what was added around counts."""
    kernel, strides, dilations, begins, ends = _window(node, x)
    over = _overhang(node, x, reach(node, kernel), strides, begins, ends)
    count = bool(node.get("count_include_pad", 0))
    rank = len(kernel)
    plain = dilations == [1] * rank
    if plain and _even(begins, ends, kernel):
        ceil = not all(isinstance(extra, int) and extra == 0 for extra in over)
        return _AVERAGE[rank](x, kernel, strides, begins, ceil, count)
    inside = torch.ones_like(x[:1, :1])
    if count:
        inside = F.pad(inside, in_torch_order(begins, ends), value=1.0)
        inside = F.pad(inside, in_torch_order([0] * rank, over))
    else:
        inside = F.pad(inside, in_torch_order(begins, [a + b for a, b in zip(ends, over, strict=True)]))
    padded = F.pad(x, in_torch_order(begins, [a + b for a, b in zip(ends, over, strict=True)]))
    return _sum_pool(padded, kernel, strides, dilations) / _sum_pool(inside, kernel, strides, dilations)


def _sum_pool(x: Tensor, kernel: list[int], strides: list[int], dilations: list[int]) -> Tensor:
    """Sum of each window, by one view for each place in it."""
    spans = [step * (size - 1) + 1 for size, step in zip(kernel, dilations, strict=True)]
    for axis, (span, stride, dilation) in enumerate(zip(spans, strides, dilations, strict=True), 2):
        x = x.unfold(axis, span, stride)[..., ::dilation].sum(-1)
    return x


@operator("LpPool")
def lp_pool(node: Node, x: Tensor) -> Tensor:
    """p-norm of each window."""
    kernel, strides, dilations, begins, ends = _window(node, x)
    over = _overhang(node, x, reach(node, kernel), strides, begins, ends)
    p = node.get("p", 2)
    padded = F.pad(x, in_torch_order(begins, [a + b for a, b in zip(ends, over, strict=True)]))
    return _sum_pool(padded.abs().pow(p), kernel, strides, dilations).pow(1 / p)


@operator("GlobalAveragePool")
def global_average_pool(node: Node, x: Tensor) -> Tensor:
    """Mean over all space."""
    rank = x.ndim - 2
    return _ADAPTIVE[rank](x, 1) if rank in _ADAPTIVE else x.mean(list(range(2, x.ndim)), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(node: Node, x: Tensor) -> Tensor:
    """Largest element over all space."""
    return x.amax(list(range(2, x.ndim)), keepdim=True)


@operator("GlobalLpPool")
def global_lp_pool(node: Node, x: Tensor) -> Tensor:
    """p-norm over all space."""
    norm: Tensor = torch.linalg.vector_norm(x, node.get("p", 2), list(range(2, x.ndim)), keepdim=True)
    return norm
