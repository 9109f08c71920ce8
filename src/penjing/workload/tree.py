"""Nested values (tuples, lists, dicts of tensors) seen as rows along dimension 0.

A *column* holds one entry per sample: a tensor or array with at least one dimension, or a list in which there is no
tensor, such as a list of texts. Tuples, dicts, and lists that hold tensors are structure. Everything else (None, flags,
zero-dimensional tensors) belongs to the whole batch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

Column = Tensor | np.ndarray[Any, Any] | list[Any]


def is_column(value: Any) -> TypeGuard[Column]:
    """Tell whether a value holds one entry per sample."""
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim > 0
    return isinstance(value, list) and not any(_holds_tensor(item) for item in value)


def leaves(value: Any) -> Iterator[Any]:
    """Give the columns and the plain values of a nested value, from left to right.

    >>> list(leaves({"a": (1, 2), "b": ["x", "y"]}))
    [1, 2, ['x', 'y']]
    """
    if is_column(value) or not isinstance(value, Mapping | tuple | list):
        yield value
        return
    for item in value.values() if isinstance(value, Mapping) else value:
        yield from leaves(item)


def tensors(value: Any) -> list[Tensor]:
    """List the tensors of a nested value."""
    return [leaf for leaf in leaves(value) if isinstance(leaf, Tensor)]


def map_leaves(function: Callable[..., Any], value: Any, *others: Any) -> Any:
    """Apply a function to each leaf (and the leaves at the same place in values of the same structure)."""
    if is_column(value) or not isinstance(value, Mapping | tuple | list):
        return function(value, *others)
    if isinstance(value, Mapping):
        return {key: map_leaves(function, value[key], *(other[key] for other in others)) for key in value}
    items = [map_leaves(function, *parts) for parts in zip(value, *others, strict=True)]
    if isinstance(value, list):
        return items
    return type(value)(*items) if hasattr(value, "_fields") else tuple(items)


def to_device(value: Any, device: torch.device | str) -> Any:
    """Move every tensor of a nested value."""
    return map_leaves(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, value)


def as_tensors(value: Any) -> Any:
    """Turn NumPy arrays of a nested value into tensors that share their memory where it is writable."""

    def convert(leaf: Any) -> Any:
        if not isinstance(leaf, np.ndarray) or leaf.dtype.kind not in "biufc":
            return leaf
        return torch.from_numpy(leaf if leaf.flags.writeable else leaf.copy())

    return map_leaves(convert, value)


def take(value: Any, index: Sequence[int], size: int) -> Any:
    """Select samples from every column that has `size` entries; leave the rest as it is.

    >>> take((torch.tensor([10, 20, 30]), ["a", "b", "c"], 0.5), [2, 0], 3)
    (tensor([30, 10]), ['c', 'a'], 0.5)
    """

    def pick(leaf: Any) -> Any:
        if not is_column(leaf) or len(leaf) != size:
            return leaf
        return [leaf[i] for i in index] if isinstance(leaf, list) else leaf[list(index)]

    return map_leaves(pick, value)


def join(values: Sequence[Any], sizes: Sequence[int]) -> Any:
    """Put the samples of several nested values of the same structure one after the other.

    >>> join([(torch.tensor([1]), ["a"]), (torch.tensor([2]), ["b"])], [1, 1])
    (tensor([1, 2]), ['a', 'b'])
    """

    def glue(*parts: Any) -> Any:
        if any(not is_column(part) or len(part) != size for part, size in zip(parts, sizes, strict=True)):
            return parts[0]
        if isinstance(parts[0], Tensor):
            return torch.cat(parts)
        return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else [item for part in parts for item in part]

    return map_leaves(glue, *values)


def layout(value: Any, size: int) -> tuple[Any, ...]:
    """Say what must agree for `join`: type, dtype and sample shape of each leaf; plain values by their text."""

    def one(leaf: Any) -> Any:
        if isinstance(leaf, Tensor | np.ndarray):
            is_per_sample = leaf.ndim > 0 and len(leaf) == size
            return type(leaf).__name__, str(leaf.dtype), tuple(leaf.shape[1:] if is_per_sample else leaf.shape)
        return type(leaf).__name__ if is_column(leaf) else repr(leaf)

    return tuple(one(leaf) for leaf in leaves(value))


def describe(value: Any) -> str:
    """Show a nested value by its shapes, for messages.

    >>> describe(((torch.zeros(2, 3),), {"mask": torch.ones(2, dtype=torch.bool)}))
    "((float32[2, 3],), {'mask': bool[2]})"
    """
    if isinstance(value, Tensor | np.ndarray):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {describe(item)}" for key, item in value.items()) + "}"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(describe, value)) + ("," if len(value) == 1 else "") + ")"
    if isinstance(value, list):
        return f"list of {len(value)}" if is_column(value) else "[" + ", ".join(map(describe, value)) + "]"
    return repr(value) if value is None or isinstance(value, bool | int | float | str) else type(value).__name__


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, Mapping | tuple | list):
        return any(_holds_tensor(item) for item in (value.values() if isinstance(value, Mapping) else value))
    return isinstance(value, Tensor | np.ndarray)
