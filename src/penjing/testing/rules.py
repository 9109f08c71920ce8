"""Check the rule of an operator against brute force.

The operator is called on random tensors. Random indices are removed along everything that the rule leaves free. Then

    rewritten operator on gathered tensors  ==  gathered outputs of the operator on zero-masked tensors

must hold in float64, shapes included. Where the outputs are said to vanish, what was removed of them must be zero. A
rule that freezes too much fails too: it must leave `groups` groups free.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from penjing.structure import Captured, Coupling, couple, cut
from penjing.structure.capture import shapes_of
from penjing.structure.reference import mask
from penjing.structure.signature import Signature
from penjing.workload.inputs import ExampleInputs


class Draw:
    """Random sizes and tensors for one trial.

    >>> Draw(0).tensor(2, 3).shape
    torch.Size([2, 3])
    """

    def __init__(self, seed: int) -> None:
        self._sizes = random.Random(seed)
        self._values = torch.Generator().manual_seed(seed)

    def size(self, low: int = 2, high: int = 6) -> int:
        """A random size, both bounds included."""
        return self._sizes.randint(low, high)

    def tensor(self, *shape: int) -> Tensor:
        """Standard normal float64."""
        return torch.randn(*shape, generator=self._values, dtype=torch.float64)

    def positive(self, *shape: int) -> Tensor:
        """Uniform in (0.1, 0.9), for operators with a domain."""
        return 0.1 + 0.8 * torch.rand(*shape, generator=self._values, dtype=torch.float64)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Integers below `high`."""
        return torch.randint(high, shape, generator=self._values)


@dataclass(frozen=True)
class Whole:
    """A tensor argument that stands for an input of the model: nothing of it may go."""

    tensor: Tensor


@dataclass(frozen=True)
class RuleCase:
    """One operator and how to call it.

    `arguments` makes the positional arguments, and a dictionary of keywords as the last item if there are any.
    `exact=False` says that the rule calls the cut inexact: then shapes are compared, and the values of statistics are
    not.

    >>> RuleCase(torch.ops.aten.mm.default, lambda draw: (draw.tensor(3, 4), draw.tensor(4, 2)), groups=3).check()
    """

    operator: Any
    arguments: Callable[[Draw], tuple[Any, ...]]
    groups: int = 1
    exact: bool = True

    def check(self, seed: int = 0) -> None:
        """Run one trial. Raises AssertionError that says what differs."""
        draw = Draw(seed)
        args, kwargs = _split_keywords(self.arguments(draw))
        captured = _capture_call(self.operator, args, kwargs)
        coupling = couple(captured)
        groups = [group for group in coupling.groups if group.prunable]
        assert not coupling.unknown, f"{self.operator}: {coupling.unknown}"
        found = f"{self.operator}: {len(groups)} groups are free, {self.groups} expected\n{coupling.table()}"
        assert len(groups) == self.groups, found
        assert all(group.exact for group in groups) == self.exact, f"{self.operator}: exact is {not self.exact}"
        choice = np.random.default_rng(seed)
        removed = {g.name: choice.choice(g.size, choice.integers(1, g.size), replace=False) for g in groups}
        self._compare(coupling, removed)

    def _compare(self, coupling: Coupling, removed: Mapping[str, Any]) -> None:
        removal = coupling.removal(removed)
        done = cut(coupling, removed)
        captured = coupling.captured
        masked = {name: mask(t, coupling.labelling.labels[name][0], removal) for name, t in captured.tensors.items()}
        inputs = captured.example.tensors
        whole = _call(fx.GraphModule(masked, captured.module.graph), inputs)
        found = _call(done.captured.module, inputs)
        vanishes = self.exact and "call" in coupling.labelling.vanishing
        for i, (a, b) in enumerate(zip(whole, found, strict=True)):
            if not isinstance(a, Tensor):
                continue
            for dim, label in enumerate(coupling.labelling.labels["call"][i]):
                kept = removal.kept(label)
                if kept is not None:
                    gone = a.index_select(dim, torch.from_numpy((~kept).nonzero()[0]))
                    assert not (vanishes and gone.is_floating_point() and gone.count_nonzero()), (
                        f"{self.operator}: what was removed is not zero"
                    )
                    a = a.index_select(dim, torch.from_numpy(kept.nonzero()[0]))
            assert a.shape == b.shape, (
                f"{self.operator}: shape {tuple(b.shape)} after the cut, {tuple(a.shape)} expected"
            )
            if self.exact:
                torch.testing.assert_close(b, a, equal_nan=True, msg=lambda m: f"{self.operator}, output {i}: {m}")  # noqa: B023
        assert shapes_of(found if len(found) > 1 else found[0]) == coupling.shapes_after(removed)["call"]


def _split_keywords(arguments: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if arguments and isinstance(arguments[-1], dict):
        return arguments[:-1], arguments[-1]
    return arguments, {}


def _capture_call(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Captured:
    """The graph of one call: tensors are read as parameters, `Whole` ones are inputs, outputs go nowhere."""
    graph = fx.Graph()
    tensors: dict[str, Tensor] = {}
    inputs: list[Tensor] = []
    shapes = {}

    def place(leaf: Any) -> Any:
        if isinstance(leaf, Whole):
            node = graph.placeholder(f"input_{len(inputs)}")
            inputs.append(leaf.tensor)
            shapes[node.name] = tuple(leaf.tensor.shape)
        elif isinstance(leaf, Tensor):
            node = graph.create_node("get_attr", f"t{len(tensors)}", name=f"t{len(tensors)}")
            tensors[node.name] = leaf
            shapes[node.name] = tuple(leaf.shape)
        else:
            return leaf
        node.meta["val"] = leaf.tensor if isinstance(leaf, Whole) else leaf
        return node

    placed = pytree.tree_map(place, (args, kwargs), is_leaf=lambda leaf: isinstance(leaf, Whole))
    graph.create_node("call_function", operator, placed[0], placed[1], name="call")
    graph.output(())
    values = pytree.tree_map(
        lambda leaf: leaf.tensor if isinstance(leaf, Whole) else leaf,
        (args, kwargs),
        is_leaf=lambda leaf: isinstance(leaf, Whole),
    )
    shapes["call"] = shapes_of(operator(*values[0], **values[1]))  # type: ignore[assignment]
    example = ExampleInputs(tuple(inputs))
    names = {node.name: "" for node in graph.nodes}
    structure = pytree.tree_flatten({f"*{i}": tensor for i, tensor in enumerate(inputs)})[1]
    signature = Signature((), structure, pytree.tree_flatten(())[1], (None,) * len(inputs))
    return Captured(fx.GraphModule(tensors, graph), example, shapes, names, signature, "call")


class _Recorder(fx.Interpreter):
    """Keeps the result of the call, which the graph itself does not return."""

    result: Any = None

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name == "call":
            self.result = value
        return value


def _call(module: fx.GraphModule, inputs: Sequence[Tensor]) -> list[Any]:
    recorder = _Recorder(module)
    recorder.run(*inputs)
    return list(recorder.result) if isinstance(recorder.result, tuple | list) else [recorder.result]
