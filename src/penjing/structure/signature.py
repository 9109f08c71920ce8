"""How a model is called, and what it returns, as flat lists of values."""

import inspect
import itertools
import keyword
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from penjing.workload.inputs import ExampleInputs


@dataclass(frozen=True)
class Signature:
    """How a call of the model becomes the flat inputs of the graph, and its flat outputs what the model returns.

    `names` are the positional arguments of the model's forward; `inputs` is the structure of the captured call with
    every argument under its name; `constants` holds the leaves that are no tensors, which are part of the graph.
    """

    names: tuple[str, ...]
    inputs: pytree.TreeSpec
    outputs: pytree.TreeSpec
    constants: tuple[Any, ...]

    def __deepcopy__(self, memo: dict[int, Any]) -> "Signature":
        return self

    @classmethod
    def of(cls, model: nn.Module, example: ExampleInputs, outputs: pytree.TreeSpec) -> "Signature":
        """The signature of a model called with an example."""
        names = positional_names(model)
        leaves, inputs = pytree.tree_flatten(by_name(names, example.args, example.kwargs))
        return cls(names, inputs, outputs, tuple(None if isinstance(leaf, Tensor) else leaf for leaf in leaves))

    def flatten(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """The flat inputs of the graph. TypeError for a call of another structure than the captured one."""
        call = by_name(self.names, args, kwargs)
        known = self.inputs.context if self.inputs.type is dict else []
        extra = [name for name in call if name not in known and call[name] is not None]
        missing = [name for name in known if name not in call]
        if extra or missing:
            what = f"missing {', '.join(missing)}" if missing else f"unexpected {', '.join(extra)}"
            raise TypeError(f"the graph was captured with the arguments {', '.join(known)}; {what}")
        leaves, inputs = pytree.tree_flatten({name: call[name] for name in known})
        if inputs != self.inputs:
            raise TypeError(f"the graph was captured with inputs of the structure {self.inputs}, not {inputs}")
        for leaf, constant in zip(leaves, self.constants, strict=True):
            if not isinstance(leaf, Tensor) and leaf != constant:
                raise TypeError(
                    f"the graph was captured with the value {constant!r}, which is part of it, not {leaf!r}"
                )
        return leaves

    def inspected(self) -> inspect.Signature:
        """What `inspect.signature` shows for a graph's forward: the captured arguments, by name.

        Those behind one that was not captured go by keyword only, for their places are those of the original.
        """
        if self.inputs.type is not dict:
            return inspect.Signature()
        kinds = inspect.Parameter
        numbered = [name for name in self.inputs.context if name.startswith("*")]
        rest = [kinds("args", kinds.VAR_POSITIONAL)] if numbered else []
        placed = list(itertools.takewhile(self.inputs.context.__contains__, self.names))
        others = [name for name in self.inputs.context if name not in placed and name not in numbered]
        keywords = [name for name in others if name.isidentifier() and not keyword.iskeyword(name)]
        return inspect.Signature(
            [
                *(kinds(name, kinds.POSITIONAL_OR_KEYWORD) for name in placed),
                *rest,
                *(kinds(name, kinds.KEYWORD_ONLY) for name in keywords),
                *([kinds("kwargs", kinds.VAR_KEYWORD)] if keywords != others else []),
            ]
        )

    @property
    def labels(self) -> list[str]:
        """A name for each flat input, fit for code: the argument, and the keys that lead to a tensor within it."""
        call = pytree.tree_unflatten(range(self.inputs.num_leaves), self.inputs)
        paths = [path for path, _ in pytree.tree_leaves_with_path(call)]
        return distinct(["_".join(str(_key(key)) for key in path).replace("*", "args_") for path in paths])

    def unflatten(self, outputs: Sequence[Any]) -> Any:
        """What the model returns."""
        return pytree.tree_unflatten(list(outputs), self.outputs)


def positional_names(model: nn.Module) -> tuple[str, ...]:
    """The names of forward's positional arguments."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(model.forward).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.kind in kinds)


def by_name(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """A call as one dictionary; positional arguments beyond the names are numbered.

    >>> by_name(("x", "mask"), (1, 2, 3), {"scale": 4})
    {'x': 1, 'mask': 2, '*2': 3, 'scale': 4}
    """
    named = {names[i] if i < len(names) else f"*{i}": value for i, value in enumerate(args)}
    return named | dict(kwargs)


def distinct(names: Sequence[str]) -> list[str]:
    """Names as identifiers of Python, each another.

    >>> distinct(["x.0", "x_0", "2", "class"])
    ['x_0', 'x_0_1', '_2', 'class_']
    """
    found: list[str] = []
    for name in names:
        name = re.sub(r"\W|^(?=\d)", "_", name) + "_" * keyword.iskeyword(name)
        taken = (f"{name}_{i}" for i in itertools.count(1))
        found.append(name if name not in found else next(other for other in taken if other not in (*found, *names)))
    return found


def _key(key: Any) -> Any:
    return getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))
