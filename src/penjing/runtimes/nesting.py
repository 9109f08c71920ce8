"""Nested values as flat tensors and a JSON description, so that a saved model returns what the original returned.

    {"logits": t0, "states": (t1, None)}
    <->  [t0, t1]  and  {"dict": {"logits": {"tensor": 0}, "states": {"tuple": [{"tensor": 1}, {"value": None}]}}}

The description is plain data: rebuilding never imports or unpickles a class that a file names. Tuples, lists, dicts and
named tuples come back as themselves; dataclasses and model outputs (as in Hugging Face Transformers) as a `Record`.
"""

import dataclasses
from collections import OrderedDict, namedtuple
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from penjing.errors import WorkloadError

Node = dict[str, Any]  # the description of one value: a JSON object with a single key that names its kind

_PLAIN = (bool, int, float, str, type(None))


class Record(OrderedDict[str, Any]):
    """Named outputs, reached as r.logits, r["logits"] or, by position, r[0].

    >>> r = Record(loss=1.0, logits=2.0)
    >>> r.logits, r["loss"], r[1]
    (2.0, 1.0, 2.0)
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"this output has no {name!r}; it has {', '.join(self)}") from None

    def __getitem__(self, key: str | int) -> Any:
        return tuple(self.values())[key] if isinstance(key, int) else super().__getitem__(key)


def flatten(value: Any, where: str = "value") -> tuple[list[Any], Node]:
    """Take a nested value apart into its tensors (or arrays), in reading order, and the description of the rest.

    Raises WorkloadError, naming the place, for a type that plain data cannot describe.

    >>> import torch
    >>> flatten((torch.zeros(1), None))[1]
    {'tuple': [{'tensor': 0}, {'value': None}]}
    """
    tensors: list[Any] = []

    def describe(value: Any, where: str) -> Node:
        if isinstance(value, Tensor | np.ndarray):
            tensors.append(value)
            return {"tensor": len(tensors) - 1}
        if isinstance(value, _PLAIN):
            return {"value": value}
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            named = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            if isinstance(value, Mapping):  # a model output leaves out its fields that are None
                named = {name: value[name] for name in value}
            return {"record": {name: describe(item, f"{where}.{name}") for name, item in named.items()}}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            fields = {name: describe(item, f"{where}.{name}") for name, item in zip(value._fields, value, strict=True)}
            return {"namedtuple": {"name": type(value).__name__, "fields": fields}}
        if isinstance(value, tuple | list):
            kind = "tuple" if isinstance(value, tuple) else "list"
            return {kind: [describe(item, f"{where}[{i}]") for i, item in enumerate(value)]}
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {"dict": {key: describe(item, f"{where}[{key!r}]") for key, item in value.items()}}
        raise WorkloadError(
            f"{where} is a {type(value).__qualname__}, which a deployed model cannot carry; pass and return tensors, "
            "numbers, strings, None, and tuples, lists, dicts with string keys or dataclasses of them"
        )

    return tensors, describe(value, where)


def rebuild(node: Node, leaves: Sequence[Any]) -> Any:
    """Put a nested value together from its description and its tensors (or arrays).

    >>> rebuild({"dict": {"a": {"tensor": 1}, "b": {"list": [{"tensor": 0}, {"value": 3}]}}}, ["x", "y"])
    {'a': 'y', 'b': ['x', 3]}
    """
    ((kind, content),) = node.items()
    if kind == "tensor":
        return leaves[content]
    if kind == "value":
        return content
    if kind == "dict":
        return {key: rebuild(item, leaves) for key, item in content.items()}
    if kind == "record":
        return Record({key: rebuild(item, leaves) for key, item in content.items()})
    if kind == "namedtuple":
        fields = content["fields"]
        make = namedtuple(content["name"], fields)  # type: ignore[misc]
        return make(*(rebuild(item, leaves) for item in fields.values()))
    items = [rebuild(item, leaves) for item in content]
    return tuple(items) if kind == "tuple" else items


def leaf_names(node: Node, name: str) -> list[str]:
    """Name every tensor of a description by its path, in the order of its index.

    >>> leaf_names({"dict": {"a": {"tensor": 0}, "b": {"list": [{"tensor": 1}, {"value": 3}]}}}, "x")
    ['x.a', 'x.b.0']
    """
    ((kind, content),) = node.items()
    if kind == "tensor":
        return [name]
    if kind == "value":
        return []
    if kind == "namedtuple":
        content = content["fields"]
    items = content.items() if isinstance(content, Mapping) else enumerate(content)
    return [leaf for key, item in items for leaf in leaf_names(item, f"{name}.{key}")]
