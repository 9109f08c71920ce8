"""How a deployed model is called: the arguments of the original `forward`, checked and taken apart into arrays."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penjing.errors import ShapeError, WorkloadError
from penjing.runtimes.nesting import Node, flatten, leaf_names, rebuild

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Input:
    """One tensor that goes in: its name, its dtype as numpy writes it, and its sizes, or names where a size is free."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def check(self, value: Any) -> Array:
        """Give it as an array; raises WorkloadError for a wrong type or dtype, ShapeError for a wrong rank or size."""
        if not isinstance(value, Tensor | np.ndarray):
            raise WorkloadError(f"input {self.name!r} is a {type(value).__name__}; pass a tensor or a numpy array")
        array = to_numpy(value, f"input {self.name!r}")
        if str(array.dtype) != self.dtype:
            raise WorkloadError(
                f"input {self.name!r} is {array.dtype}, but the model takes {self.dtype}; convert it to {self.dtype}"
            )
        fits = array.ndim == len(self.shape) and all(
            isinstance(size, str) or size == given for size, given in zip(self.shape, array.shape, strict=True)
        )
        if not fits:
            expected = ", ".join(map(str, self.shape))
            raise ShapeError(
                f"input {self.name!r} has shape {tuple(array.shape)}, but the model takes [{expected}]; reshape it, or "
                "export with example inputs (or dynamic_shapes) that cover this shape"
            )
        return array


@dataclass(frozen=True, slots=True)
class Signature:
    """The arguments that an exported model takes and the tensors in them.

    positional: names of the parameters of `forward` that may be given by position. arguments: what the example gave, by
    name; the tensors of each description are numbered from zero. inputs: all tensors, in the order of the arguments.
    """

    positional: tuple[str, ...]
    arguments: Mapping[str, Node]
    inputs: tuple[Input, ...] = ()

    @staticmethod
    def of(
        forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> "tuple[Signature, list[Tensor]]":
        """Read the signature and the tensors of one example call.

        >>> signature, tensors = Signature.of(lambda x, mask=None: x, (torch.zeros(2),), {})
        >>> signature.positional, signature.arguments, len(tensors)
        (('x', 'mask'), {'x': {'tensor': 0}}, 1)
        """
        positional = _positional(forward, len(args))
        tensors: list[Tensor] = []
        arguments: dict[str, Node] = {}
        for name, value in _by_name(positional, args, kwargs).items():
            leaves, arguments[name] = flatten(value, f"example input {name!r}")
            tensors += leaves
        if not tensors:
            raise WorkloadError("the example inputs hold no tensor; give example_inputs as the model is called")
        return Signature(positional, arguments), tensors

    @property
    def names(self) -> list[str]:
        """Name of every input tensor, in order; the tensor itself by the argument's name, a nested one by its path."""
        return [leaf for name, node in self.arguments.items() for leaf in leaf_names(node, name)]

    def call(self, function: Callable[..., Any], leaves: Sequence[Any]) -> Any:
        """Call a function as the example did, with these tensors in place of the example's."""
        values: dict[str, Any] = {}
        start = 0
        for name, node in self.arguments.items():
            count = len(leaf_names(node, name))
            values[name] = rebuild(node, leaves[start : start + count])
            start += count
        args = []
        for name in self.positional:  # a gap in the middle means that the rest was given by keyword
            if name not in values:
                break
            args.append(values.pop(name))
        return function(*args, **values)

    def feeds(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Array]:
        """Take one call apart into arrays, in the order of `inputs`.

        Raises WorkloadError for an argument that is unknown, missing, or of another structure or dtype, ShapeError
        for a wrong shape.
        """
        given = _by_name(self.positional, args, kwargs)
        known = ", ".join(self.arguments)
        if unknown := [name for name in given if name not in self.arguments and given[name] is not None]:
            raise WorkloadError(f"the exported model takes no input {unknown[0]!r}; it takes {known}")
        leaves: list[Any] = []
        for name, node in self.arguments.items():
            if name not in given:
                if leaf_names(node, name):
                    raise WorkloadError(f"input {name!r} is missing; the exported model takes {known}")
                continue
            found, structure = flatten(given[name], f"input {name!r}")
            if structure != node:
                raise WorkloadError(
                    f"input {name!r} is {_sketch(structure)}, but the model was exported with {_sketch(node)}; pass "
                    "the same structure and constants, or export again with this example"
                )
            leaves += found
        arrays = [spec.check(leaf) for spec, leaf in zip(self.inputs, leaves, strict=True)]
        self._check_free_sizes(arrays)
        return arrays

    def _check_free_sizes(self, arrays: Sequence[Array]) -> None:
        """Sizes of one name must agree: the runtime's own message would name a node deep in the graph."""
        seen: dict[str, tuple[str, int]] = {}
        for spec, array in zip(self.inputs, arrays, strict=True):
            for size, given in zip(spec.shape, array.shape, strict=True):
                if not isinstance(size, str):
                    continue
                first, expected = seen.setdefault(size, (spec.name, given))
                if given != expected:
                    raise ShapeError(
                        f"input {spec.name!r} has {given} for the dimension {size!r}, where {first!r} has {expected}; "
                        "give both the same size"
                    )

    def to_data(self) -> dict[str, Any]:
        """Give the positional names and the arguments as JSON values; the inputs are kept by the manifest itself."""
        return {"positional": list(self.positional), "arguments": dict(self.arguments)}


def to_numpy(value: Tensor | Array, what: str) -> Array:
    """Give a tensor as an array; raises WorkloadError for a dtype that numpy lacks."""
    if isinstance(value, np.ndarray):
        return value
    if value.dtype == torch.bfloat16:
        raise WorkloadError(f"{what} is bfloat16, which numpy lacks; convert the model and its inputs with .float()")
    array: Array = value.detach().cpu().numpy()
    return array


def _positional(forward: Callable[..., Any], count: int) -> tuple[str, ...]:
    names: list[str] = []
    for parameter in inspect.signature(forward).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}_{i}" for i in range(count - len(names))]
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    return tuple(names)


def _by_name(positional: tuple[str, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    if len(args) > len(positional):
        raise WorkloadError(
            f"{len(args)} inputs were given by position; the model takes {len(positional)}: {positional}"
        )
    named = dict(zip(positional, args, strict=False))
    if twice := [name for name in kwargs if name in named]:
        raise WorkloadError(f"input {twice[0]!r} was given twice, by position and by name; give it once")
    return named | dict(kwargs)


def _sketch(node: Node) -> str:
    """Write a description shortly, for messages: (tensor, {'a': None})."""
    ((kind, content),) = node.items()
    if kind == "tensor":
        return "tensor"
    if kind == "value":
        return repr(content)
    if kind == "namedtuple":
        content = content["fields"]
    if isinstance(content, Mapping):
        return "{" + ", ".join(f"{key!r}: {_sketch(item)}" for key, item in content.items()) + "}"
    inner = ", ".join(map(_sketch, content))
    return f"({inner})" if kind == "tuple" else f"[{inner}]"
