"""Operators on known numbers: what numpy computes on Python numbers, symbolic or not.

A row gets arrays of objects and gives one. Where all inputs of a node are known and it has a row here, nothing of it is
in the graph of torch.
"""

import functools
import math
import operator as py
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import SymBool, SymFloat, SymInt

from penjing.onnx_import.known import LARGEST, Known
from penjing.onnx_import.node import DTYPES, Node

Array = NDArray[Any]


def known_outputs(node: Node, inputs: Sequence[Known | None]) -> tuple[Known, ...] | None:
    """The outputs of a node as known numbers; None where it has no row here, or they are too many to be sizes."""
    row = _ROWS.get(node.op)
    if row is None or node.domain:
        return None
    outputs = row(node, *inputs)
    if outputs is None or any(output.array.size > LARGEST for output in outputs):
        return None
    return outputs


def _each(function: Callable[..., Any], *arrays: Array) -> Array:
    result: Any = np.frompyfunc(function, len(arrays), 1)(*arrays)
    return result if isinstance(result, np.ndarray) else Known.of(result).array


def _divide(a: Any, b: Any) -> Any:
    if isinstance(a, float | SymFloat) or isinstance(b, float | SymFloat):
        return a / b
    if isinstance(a, SymInt) or isinstance(b, SymInt):
        return a // b  # sizes are not negative
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def _mod(node: Node) -> Callable[[Any, Any], Any]:
    return math.fmod if node.get("fmod", 0) else py.mod


_PAIRS: dict[str, Callable[[Any, Any], Any]] = {
    "Add": py.add,
    "Sub": py.sub,
    "Mul": py.mul,
    "Div": _divide,
    "Min": lambda a, b: torch.sym_min(a, b),
    "Max": lambda a, b: torch.sym_max(a, b),
}
_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "Equal": py.eq,
    "Less": py.lt,
    "LessOrEqual": py.le,
    "Greater": py.gt,
    "GreaterOrEqual": py.ge,
    "And": lambda a, b: bool(a) and bool(b),
    "Or": lambda a, b: bool(a) or bool(b),
}
_FOLDS: dict[str, Callable[[Any, Any], Any]] = {
    "ReduceProd": py.mul,
    "ReduceSum": py.add,
    "ReduceMax": lambda a, b: torch.sym_max(a, b),
    "ReduceMin": lambda a, b: torch.sym_min(a, b),
}
_SINGLES: dict[str, Callable[[Any], Any]] = {
    "Neg": py.neg,
    "Abs": abs,
    "Floor": lambda a: torch.sym_float(math.floor(a)),
    "Ceil": lambda a: torch.sym_float(math.ceil(a)),
    "Sqrt": lambda a: torch.sym_sqrt(a) if isinstance(a, SymFloat) else math.sqrt(a),
}


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if dtype is torch.bool:
        return bool(value)
    if dtype.is_floating_point:
        return torch.sym_float(value)
    if isinstance(value, bool | SymBool):
        return int(value)
    return torch.sym_int(value)


def _axes(node: Node, given: Known | None) -> tuple[int, ...]:
    return tuple(node.get("axes", ()) if given is None else given.values)


def _pair(node: Node, first: Known, *rest: Known) -> tuple[Known, ...]:
    array = first.array
    for other in rest:
        array = _each(_PAIRS[node.op], array, other.array)
    return (Known(array, first.dtype),)


def _compare(node: Node, a: Known, b: Known) -> tuple[Known, ...]:
    return (Known(_each(_COMPARISONS[node.op], a.array, b.array), torch.bool),)


def _single(node: Node, x: Known) -> tuple[Known, ...] | None:
    if node.op != "Neg" and node.op != "Abs" and not x.dtype.is_floating_point:
        return None
    return (Known(_each(_SINGLES[node.op], x.array), x.dtype),)


def _modulo(node: Node, a: Known, b: Known) -> tuple[Known, ...]:
    return (Known(_each(_mod(node), a.array, b.array), a.dtype),)


def _not(node: Node, x: Known) -> tuple[Known, ...]:
    return (Known(_each(lambda a: not a, x.array), torch.bool),)


def _convert(node: Node, x: Known) -> tuple[Known, ...] | None:
    dtype = DTYPES.get(node.get("to"))
    if dtype is None or dtype.is_complex or any(isinstance(v, float) and not math.isfinite(v) for v in x.values):
        return None
    if dtype in (torch.int64, torch.int32, torch.float32, torch.float64, torch.bool):
        return (Known(_each(lambda value: _cast(value, dtype), x.array), dtype),)
    return None


def _where(node: Node, condition: Known, a: Known, b: Known) -> tuple[Known, ...]:
    return (Known(_each(lambda c, x, y: x if c else y, condition.array, a.array, b.array), a.dtype),)


def _gather(node: Node, x: Known, index: Known) -> tuple[Known, ...]:
    taken = np.take(x.array, index.array.astype(np.int64), axis=node.get("axis", 0))
    return (Known.of(taken, x.dtype),)


def _slice(node: Node, x: Known, *rest: Known | None) -> tuple[Known, ...] | None:
    if rest:
        starts, ends, axes, steps = (*(None if part is None else part.values for part in rest), None, None)[:4]
    else:
        starts, ends, axes, steps = (*(list(node.get(name, ())) for name in ("starts", "ends")), node.get("axes"), None)
    assert starts is not None
    assert ends is not None
    index = [slice(None)] * x.array.ndim
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        step = 1 if steps is None else steps[i]
        index[i if axes is None else axes[i]] = _bounds(start, end, step)
    return (Known(x.array[tuple(index)], x.dtype),)


def _bounds(start: Any, end: Any, step: int) -> slice:
    return slice(int(start), None if step < 0 and end < -(2**31) else int(end), int(step))


def _concat(node: Node, *parts: Known) -> tuple[Known, ...]:
    return (Known(np.concatenate([part.array for part in parts], node.get("axis", 0)), parts[0].dtype),)


def _unsqueeze(node: Node, x: Known, axes: Known | None = None) -> tuple[Known, ...]:
    return (Known(np.expand_dims(x.array, _axes(node, axes)), x.dtype),)


def _squeeze(node: Node, x: Known, axes: Known | None = None) -> tuple[Known, ...]:
    return (Known(np.squeeze(x.array, _axes(node, axes) or None), x.dtype),)


def _reshape(node: Node, x: Known, shape: Known | None = None) -> tuple[Known, ...]:
    sizes = node.get("shape") if shape is None else shape.values
    sizes = [x.array.shape[i] if size == 0 and not node.get("allowzero") else size for i, size in enumerate(sizes)]
    return (Known(x.array.reshape([int(size) for size in sizes]), x.dtype),)


def _transpose(node: Node, x: Known) -> tuple[Known, ...]:
    return (Known(np.transpose(x.array, node.get("perm")), x.dtype),)


def _identity(node: Node, x: Known) -> tuple[Known, ...]:
    return (x,)


def _shape(node: Node, x: Known) -> tuple[Known, ...]:
    return (Known.of(x.array.shape[slice(node.get("start", 0), node.get("end"))]),)


def _size(node: Node, x: Known) -> tuple[Known, ...]:
    return (Known.of(x.array.size),)


def _range(node: Node, start: Known, limit: Known, step: Known) -> tuple[Known, ...] | None:
    bounds = [start.number, limit.number, step.number]
    if not all(type(number) is int for number in bounds) or len(range(*bounds)) > LARGEST:
        return None
    return (Known.of(list(range(*bounds)), start.dtype),)


def _reduce(node: Node, x: Known, axes: Known | None = None) -> tuple[Known, ...] | None:
    over = _axes(node, axes)
    if x.array.ndim != 1 or not x.array.size or (not over and node.get("noop_with_empty_axes", 0)):
        return None
    result = functools.reduce(_FOLDS[node.op], x.values)
    return (Known.of([result] if node.get("keepdims", 1) else result, x.dtype),)


def _expand(node: Node, x: Known, shape: Known) -> tuple[Known, ...] | None:
    sizes = shape.values
    if not all(type(size) is int for size in sizes) or math.prod(sizes) > LARGEST:
        return None
    return (Known(np.broadcast_to(x.array, np.broadcast_shapes(x.array.shape, tuple(sizes))).copy(), x.dtype),)


def _split(node: Node, x: Known, split: Known | None = None) -> tuple[Known, ...] | None:
    sizes = node.get("split") if split is None else split.values
    axis = node.get("axis", 0)
    if sizes is None:
        parts = np.array_split(x.array, len(node.outputs), axis)
    else:
        parts = np.split(x.array, np.cumsum(sizes)[:-1].astype(int), axis)
    return tuple(Known(part, x.dtype) for part in parts)


_ROWS: dict[str, Callable[..., tuple[Known, ...] | None]] = {
    **dict.fromkeys(_PAIRS, _pair),
    **dict.fromkeys(_COMPARISONS, _compare),
    **dict.fromkeys(_SINGLES, _single),
    **dict.fromkeys(_FOLDS, _reduce),
    "Mod": _modulo,
    "Not": _not,
    "Cast": _convert,
    "Where": _where,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Identity": _identity,
    "Shape": _shape,
    "Size": _size,
    "Range": _range,
    "Expand": _expand,
    "Split": _split,
}
