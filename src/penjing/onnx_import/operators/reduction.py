"""Reductions, arguments of extremes, and the largest k."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from penjing.onnx_import.known import Value, numbers
from penjing.onnx_import.node import Node
from penjing.onnx_import.operators.table import operator

_REDUCTIONS: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceMean": lambda x, dims, keep: x.mean(dims, keepdim=keep),
    "ReduceSum": lambda x, dims, keep: x.sum(dims, keepdim=keep, dtype=x.dtype),
    "ReduceMax": lambda x, dims, keep: _extreme(x, dims, keep, torch.amax),
    "ReduceMin": lambda x, dims, keep: _extreme(x, dims, keep, torch.amin),
    "ReduceL1": lambda x, dims, keep: x.abs().sum(dims, keepdim=keep, dtype=x.dtype),
    "ReduceL2": lambda x, dims, keep: x.square().sum(dims, keepdim=keep, dtype=x.dtype).sqrt().to(x.dtype),
    "ReduceSumSquare": lambda x, dims, keep: x.square().sum(dims, keepdim=keep, dtype=x.dtype),
    "ReduceLogSum": lambda x, dims, keep: x.sum(dims, keepdim=keep).log(),
    "ReduceLogSumExp": lambda x, dims, keep: torch.logsumexp(x, dims, keepdim=keep),
    "ReduceProd": lambda x, dims, keep: _prod(x, dims, keep),
}


def _extreme(x: Tensor, dims: list[int], keep: bool, function: Callable[..., Tensor]) -> Tensor:
    if x.numel() == 0:  # torch has no extreme of nothing; that of a float is infinite
        worst = float("-inf") if function is torch.amax else float("inf")
        shape = [size if i not in dims else 1 for i, size in enumerate(x.shape)]
        y = x.new_full(shape, worst)
        return y if keep else y.squeeze(dims)
    return function(x, dims, keepdim=keep)


def _prod(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    for dim in sorted(dims, reverse=True):
        x = x.prod(dim, keepdim=keep, dtype=x.dtype)
    return x


@operator(*_REDUCTIONS, known=(1,))
def reduce(node: Node, x: Tensor, axes: Value | None = None) -> Tensor:
    """Reduce over axes, an attribute in old opsets and an input in new ones; over all where there are none."""
    given = list(node.get("axes", ())) if axes is None else numbers(axes)
    if not given and node.get("noop_with_empty_axes", 0):
        return _without_axes(node, x)
    dims = [axis % x.ndim for axis in given] if given else list(range(x.ndim))
    if not dims:
        return _without_axes(node, x)
    return _REDUCTIONS[node.op](x, dims, bool(node.get("keepdims", 1)))


def _without_axes(node: Node, x: Tensor) -> Tensor:
    """Reduce each element alone."""
    return _REDUCTIONS[node.op](x.unsqueeze(-1), [x.ndim], False)


@operator("ArgMax", "ArgMin")
def arg_extreme(node: Node, x: Tensor) -> Tensor:
    """Where the first, or the last, extreme along an axis is."""
    axis, keep = node.get("axis", 0), bool(node.get("keepdims", 1))
    function: Callable[..., Tensor] = torch.argmax if node.op == "ArgMax" else torch.argmin
    if node.get("select_last_index", 0):
        from_behind = function(x.flip(axis), axis, keepdim=keep)
        return torch.rsub(from_behind, x.shape[axis] - 1)
    return function(x, axis, keepdim=keep)


@operator("TopK", known=(1,))
def top_k(node: Node, x: Tensor, k: Value | None = None) -> Any:
    """The k largest or smallest along an axis, and where they are; of equals the first comes first."""
    (count,) = [node.get("k")] if k is None else numbers(k)
    axis = node.get("axis", -1)
    values, indices = torch.sort(x, dim=axis, descending=bool(node.get("largest", 1)), stable=True)
    return values.narrow(axis, 0, count), indices.narrow(axis, 0, count)
