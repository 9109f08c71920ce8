"""Numbers that are known while a graph is traced: sizes, axes, indices, and what is computed from them.

    Shape -> Gather -> Mul -> Concat -> Reshape      x.reshape(n, heads * width)

ONNX computes sizes with tensors. Here they stay Python numbers (or SymInts while torch.export traces), held in a numpy
array of objects, so that the batch stays free and the graph of torch has literal sizes where a person would write them.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LARGEST = 64  # more numbers than this are no sizes, but data


@dataclass(frozen=True)
class Known:
    """A small ONNX tensor as Python numbers: an array of objects, and the dtype that a tensor of them has.

    >>> Known.of([2, 3]).tensor(), Known.of(2).number
    (tensor([2, 3]), 2)
    """

    array: NDArray[Any]
    dtype: torch.dtype = torch.int64

    @classmethod
    def of(cls, values: Any, dtype: torch.dtype = torch.int64) -> "Known":
        """Of one number, or of a tuple, list or array of them."""
        if isinstance(values, np.ndarray):
            array = values.astype(object)
        elif isinstance(values, tuple | list):
            array = np.empty(len(values), object)
            for i, value in enumerate(values):  # one by one: numpy would look into symbolic numbers
                array[i] = value
        else:
            array = np.empty((), object)
            array[()] = values
        return cls(array, dtype)

    @property
    def values(self) -> list[Any]:
        """The numbers in reading order."""
        return [self.array[place] for place in np.ndindex(self.array.shape)]

    @property
    def number(self) -> Any:
        """The only number."""
        (value,) = self.values
        return value

    def tensor(self) -> Tensor:
        """The same as a tensor."""
        values = self.values
        if all(isinstance(value, bool | int | float) for value in values):
            plain = np.array(values, dtype=object).reshape(self.array.shape).tolist()
            return torch.tensor(plain, dtype=self.dtype)
        parts = [torch.scalar_tensor(value, dtype=self.dtype) for value in values]
        return torch.stack(parts).reshape(self.array.shape)


Value: TypeAlias = Tensor | Known


def tensor(value: Value) -> Tensor:
    """A value as a tensor."""
    return value.tensor() if isinstance(value, Known) else value


def numbers(value: Any) -> list[Any]:
    """A value of rank 0 or 1 as whole numbers. A tensor is read, so that what comes of it depends on its values."""
    if isinstance(value, Known):
        return value.values
    if isinstance(value, Tensor):
        return list(value.reshape(-1).tolist())
    return list(value)


def operand(value: Value, other: Value) -> Any:
    """What an elementwise operator of torch gets: a plain number where that gives the same rank, else a tensor."""
    if isinstance(value, Known) and isinstance(other, Tensor):
        if value.array.size == 1 and value.array.ndim <= other.ndim:
            return value.number
        return value.tensor().to(other.device)
    return tensor(value)


def product(sizes: Iterable[Any]) -> Any:
    """Product of sizes, symbolic or not."""
    return math.prod(sizes)
