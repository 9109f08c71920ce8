"""What a model is called with, as one frozen value."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from penjing.errors import WorkloadError
from penjing.workload import tree


@dataclass(frozen=True)
class ExampleInputs:
    """Positional and keyword arguments of one call; dimension 0 of each tensor is the batch.

    >>> example = ExampleInputs.of({"x": torch.zeros(2, 3)})
    >>> example.args, example.batch_size, example.with_batch(5).kwargs["x"].shape
    ((), 2, torch.Size([5, 3]))
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, inputs: Any) -> Self:
        """Read example inputs: a tensor, a tuple of positional arguments, a dict of keywords, or (args, kwargs).

        A pair of a tuple and a dict with text keys is always read as (args, kwargs). A model whose two positional
        arguments are a tuple and a dict takes `((the_tuple, the_dict), {})`. NumPy arrays become tensors.

        Raises WorkloadError for anything else, and for inputs that hold no tensor.
        """
        if isinstance(inputs, cls):
            return inputs
        inputs = tree.as_tensors(inputs)
        args: tuple[Any, ...] = ()
        kwargs: Mapping[str, Any] = {}
        if isinstance(inputs, Tensor):
            args = (inputs,)
        elif _is_keywords(inputs):
            kwargs = inputs
        elif (
            isinstance(inputs, tuple) and len(inputs) == 2 and isinstance(inputs[0], tuple) and _is_keywords(inputs[1])
        ):
            args, kwargs = inputs
        elif isinstance(inputs, tuple | list):
            args = tuple(inputs)
        else:
            raise WorkloadError(
                f"example inputs are {tree.describe(inputs)}; give a tensor, a tuple of positional arguments, "
                "a dict of keywords, or (args, kwargs)"
            )
        example = cls(args, dict(kwargs))
        if not example.tensors:
            raise WorkloadError(
                f"example inputs {tree.describe(inputs)} hold no tensor; give what model(...) is called with"
            )
        return example

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor, positional ones first."""
        return tree.tensors((self.args, self.kwargs))

    @property
    def batch_size(self) -> int:
        """Size of dimension 0 of the first tensor that has one; 1 if none has."""
        size = batch_size((self.args, self.kwargs))
        return 1 if size is None else size

    def with_batch(self, n: int) -> Self:
        """Give the same inputs with n samples, by repeating or slicing dimension 0 of every batched tensor."""
        if n < 1:
            raise WorkloadError(f"a batch of {n} samples is impossible; ask for 1 or more")
        size = self.batch_size
        if not size:
            raise WorkloadError("example inputs with an empty batch cannot be repeated; give at least one sample")
        index = [i % size for i in range(n)]
        args, kwargs = tree.take((self.args, self.kwargs), index, size)
        return replace(self, args=args, kwargs=kwargs)

    def to(self, device: torch.device | str) -> Self:
        """Move every tensor to a device."""
        args, kwargs = tree.to_device((self.args, self.kwargs), device)
        return replace(self, args=args, kwargs=kwargs)

    def __str__(self) -> str:
        return tree.describe((self.args, self.kwargs))


def batch_size(value: Any) -> int | None:
    """Size of dimension 0 of the first tensor that has one, None if none has."""
    return next((len(tensor) for tensor in tree.tensors(value) if tensor.ndim > 0), None)


def _is_keywords(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
