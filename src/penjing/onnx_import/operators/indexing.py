"""Operators that read or write by index, and those that make tensors from numbers."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from penjing.errors import CaptureError
from penjing.onnx_import.known import LARGEST, Known, Value, numbers, product, tensor
from penjing.onnx_import.node import DTYPES, Node, read_tensor
from penjing.onnx_import.operators.table import operator


def _wrapped(index: Tensor, size: Any) -> Tensor:
    """Indices that count from the end where they are negative, as indices from the start."""
    return torch.where(index < 0, index + size, index)


@operator("Gather", known=(1,))
def gather(node: Node, x: Tensor, index: Value) -> Tensor:
    """Slices of x along an axis; one place is a `select`, a row of a weight an `embedding`."""
    axis = node.get("axis", 0) % x.ndim
    if isinstance(index, Known):
        if index.array.ndim == 0:
            return x.select(axis, index.number)
        if all(type(i) is int for i in index.values):
            size = x.shape[axis]
            index = Known(Known.of([i + size if i < 0 else i for i in index.values]).array.reshape(index.array.shape))
        chosen = index.tensor().to(x.device)
    else:
        chosen = index.long()
        if axis == 0 and x.ndim == 2 and isinstance(x, torch.nn.Parameter):
            return F.embedding(chosen, x)
        chosen = _wrapped(chosen, x.shape[axis])
    if chosen.ndim == 1:
        return x.index_select(axis, chosen)
    y = x.index_select(axis, chosen.reshape(-1))
    return y.reshape([*x.shape[:axis], *chosen.shape, *x.shape[axis + 1 :]])


@operator("GatherElements")
def gather_elements(node: Node, x: Tensor, index: Tensor) -> Tensor:
    """y[i, j] = x[index[i, j], j] along an axis."""
    axis = node.get("axis", 0)
    return torch.gather(x, axis, _wrapped(index.long(), x.shape[axis]))


@operator("GatherND")
def gather_nd(node: Node, x: Tensor, index: Tensor) -> Tensor:
    """y[...] = x[index[..., :]], behind some batch dimensions."""
    batch = node.get("batch_dims", 0)
    places: list[Tensor] = []
    for i in range(batch):
        shape = [1] * (index.ndim - 1)
        shape[i] = -1
        places.append(torch.arange(x.shape[i], device=x.device).reshape(shape))
    places += list(index.long().unbind(-1))
    return x[tuple(places)]


_REDUCE = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@operator("ScatterElements", "Scatter")
def scatter_elements(node: Node, x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
    """Write updates at indices along an axis, or combine them with what is there."""
    axis = node.get("axis", 0)
    index = _wrapped(index.long(), x.shape[axis])
    reduction = node.get("reduction", "none")
    if reduction == "none":
        return x.scatter(axis, index, updates)
    return x.scatter_reduce(axis, index, updates, _REDUCE[reduction], include_self=True)


@operator("ScatterND")
def scatter_nd(node: Node, x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
    """Write updates at x[index[..., :]], or combine them with what is there."""
    depth = int(index.shape[-1])
    head, tail = list(x.shape[:depth]), list(x.shape[depth:])
    flat_index = torch.zeros_like(index[..., 0], dtype=torch.int64)
    for i, size in enumerate(head):
        flat_index = flat_index * size + _wrapped(index[..., i].long(), size)
    flat = x.reshape(product(head), product(tail))
    rows = flat_index.reshape(-1, 1).expand(-1, flat.shape[1])
    news = updates.reshape(-1, flat.shape[1])
    reduction = node.get("reduction", "none")
    if reduction == "none":
        y = flat.scatter(0, rows, news)
    else:
        y = flat.scatter_reduce(0, rows, news, _REDUCE[reduction], include_self=True)
    return y.reshape(x.shape)


@operator("OneHot", known=(1, 2))
def one_hot(node: Node, index: Tensor, depth: Value, values: Value) -> Tensor:
    """values[1] where the index says so along a new axis, else values[0]."""
    (count,) = numbers(depth)
    both = tensor(values)
    axis = node.get("axis", -1)
    axis = axis + index.ndim + 1 if axis < 0 else axis
    shape = [1] * (index.ndim + 1)
    shape[axis] = -1
    places = torch.arange(int(count), device=index.device).reshape(shape)
    chosen = _wrapped(index.long(), int(count)).unsqueeze(axis) == places
    return torch.where(chosen, both[1], both[0])


@operator("NonZero")
def nonzero(node: Node, x: Tensor) -> Tensor:
    """Where elements are not zero, a row for each dimension."""
    return torch.nonzero(x).t()


@operator("Compress")
def compress(node: Node, x: Tensor, condition: Tensor) -> Tensor:
    """Slices along an axis, or elements, where a condition holds."""
    places = torch.nonzero(condition).reshape(-1)
    axis = node.get("axis")
    return x.reshape(-1)[places] if axis is None else x.index_select(axis, places)


@operator("Constant")
def constant(node: Node) -> Any:
    """A constant; small whole numbers stay numbers."""
    return constant_value(node)


def constant_value(node: Node) -> Tensor | Known:
    """The value of a Constant, whichever attribute holds it."""
    ((name, value),) = node.attributes.items()
    if name == "value":
        return read_tensor(value)
    kinds = {"value_int": torch.int64, "value_ints": torch.int64, "value_float": torch.float32}
    dtype = kinds.get(name, torch.float32)
    if name in (*kinds, "value_floats"):
        return torch.tensor(value, dtype=dtype)
    raise CaptureError(f"{node} is a constant of kind {name!r}, which torch does not compute with")


@operator("ConstantOfShape", known=(0,))
def constant_of_shape(node: Node, shape: Value) -> Any:
    """A tensor of one value; a small one of whole numbers stays numbers."""
    given = node.get("value")
    value = torch.zeros(1) if given is None else read_tensor(given)
    sizes = numbers(shape)
    if all(type(size) is int for size in sizes) and len(sizes) <= 1 and math.prod(sizes) <= LARGEST:
        kind = value.dtype in (torch.int64, torch.int32, torch.bool)
        if kind:
            values = [value.item()] * math.prod(sizes)
            return Known.of(values if sizes else values[0], value.dtype)
    return torch.full(sizes, value.item(), dtype=value.dtype)


@operator("Range", known=(0, 1, 2))
def range_(node: Node, start: Value, limit: Value, step: Value) -> Tensor:
    """Numbers from start, below limit."""
    dtype = start.dtype
    first, last, by = (numbers(value)[0] for value in (start, limit, step))
    return torch.arange(first, last, by, dtype=dtype)


@operator("EyeLike")
def eye_like(node: Node, x: Tensor) -> Tensor:
    """Ones on a diagonal."""
    to = node.get("dtype")
    y = torch.ones_like(x, dtype=x.dtype if to is None else DTYPES[to])
    k = node.get("k", 0)
    return y.triu(k).tril(k)
