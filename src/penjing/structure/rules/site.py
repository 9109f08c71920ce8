"""What a rule sees of one operator in the graph, and what it answers.

A rule reads the labels of its inputs, equates or freezes them, and answers with a `Ruling`: the labels of its outputs
and the constants of the call that are sizes in disguise, each written as the label that it measures. Surgery later
evaluates these, so that no constant is ever matched by its number.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeGuard

import torch
from torch import fx

from penjing.structure.atoms import Atoms, Label

Shape: TypeAlias = tuple[int, ...]
Shapes: TypeAlias = Shape | tuple[Shape | None, ...] | None
Labels: TypeAlias = tuple[Label, ...]


@dataclass(frozen=True, slots=True)
class Count:
    """The number of indices of a dimension that stay."""

    label: Label
    size: int


@dataclass(frozen=True, slots=True)
class Position:
    """Where an index of a dimension moves: the number of indices before it that stay."""

    label: Label
    index: int


@dataclass(frozen=True, slots=True)
class Inexact:
    """A dimension over which the operator takes a statistic: cutting it changes the function beyond masking."""

    label: Label
    why: str


@dataclass(frozen=True, slots=True)
class Ruling:
    """The answer of a rule.

    `outputs` are the labels of each output tensor. `constants` maps argument names of the operator to new values, in
    which `Count` and `Position` stand for numbers known only after the cut. `target`, where given, replaces the
    operator by one that can say the same with uneven sizes. Constants are written only where the cut touches the node.
    `contiguous`: the operator is particular about strides, which a cut anywhere before it may change.
    """

    outputs: tuple[Labels, ...]
    constants: Mapping[str, Any] = field(default_factory=dict)
    inexact: tuple[Inexact, ...] = ()
    target: Any = None
    contiguous: bool = False


class Site:
    """One call in the graph, seen by its rule: arguments by schema name, shapes and labels of its tensors.

    Under `eager_safe` the code of the model's own class, whose constants nobody rewrites, must survive the cut too.
    """

    def __init__(
        self,
        node: fx.Node,
        atoms: Atoms,
        labels: Mapping[str, tuple[Labels, ...]],
        shapes: Mapping[str, Shapes],
        vanishing: Collection[str] = (),
        *,
        eager_safe: bool = False,
    ) -> None:
        self.node = node
        self.eager_safe = eager_safe
        self.atoms = atoms
        self._labels = labels
        self._shapes = shapes
        self._vanishing = vanishing
        self._arguments = bind(node)

    def __getitem__(self, argument: str) -> Any:
        """The value of an argument: a node, a constant, or the default of the schema."""
        return self._arguments[argument]

    @property
    def arguments(self) -> Mapping[str, Any]:
        """Every argument by its name in the schema."""
        return self._arguments

    @property
    def operator(self) -> str:
        """The operator's name, such as `aten::conv2d`."""
        return operator_name(self.node.target)

    def is_tensor(self, value: object) -> bool:
        """Whether a value of an argument is a single tensor of known shape."""
        return (
            isinstance(value, fx.Node)
            and len(self._labels.get(value.name, ())) == 1
            and is_shape(self._shapes[value.name])
        )

    def labels(self, value: Any) -> Labels:
        """The labels of the dimensions of a tensor in the arguments."""
        return self._labels[value.name][0]

    def vanishes(self, value: fx.Node) -> bool:
        """Whether a value is zero where a slice was removed (see `vanishing`)."""
        return value.name in self._vanishing

    def contract(self, label: Label, a: fx.Node, b: fx.Node) -> tuple[Inexact, ...]:
        """What a sum over a dimension of a product of two tensors means: inexact when neither of them vanishes."""
        exact = label is None or self.vanishes(a) or self.vanishes(b)
        return () if exact else (Inexact(label, "a product of activations"),)

    def outputs_of(self, value: fx.Node) -> tuple[Labels, ...]:
        """The labels of every output of an operator that has several."""
        return self._labels[value.name]

    def shape(self, value: Any) -> Shape:
        """The shape of a tensor in the arguments."""
        shape = self._shapes[value.name]
        if not is_shape(shape):
            raise TypeError(f"{value.name} is no single tensor")
        return shape

    @property
    def output_shapes(self) -> tuple[Shape | None, ...]:
        """The shape of each output."""
        return each_shape(self._shapes[self.node.name])

    @property
    def output_shape(self) -> Shape:
        """The shape of the only output."""
        (shape,) = self.output_shapes
        if shape is None:
            raise TypeError(f"{self.node.name} gives no tensor")
        return shape

    @property
    def tensors(self) -> list[fx.Node]:
        """Every tensor argument, lists included, in order."""
        return [node for node in self.node.all_input_nodes if self.is_tensor(node)]

    def equate(self, a: Label, b: Label) -> Label:
        """Make two dimensions the same; a fixed one freezes the other."""
        return self.atoms.equate(a, b, f"it must match a dimension of fixed size in {self.describe()}")

    def freeze(self, label: Label, why: str) -> None:
        """Forbid removals along a dimension; `why` continues the sentence 'frozen because ...'."""
        self.atoms.freeze(label, f"{why} in {self.describe()}")

    def hold(self, label: Label) -> None:
        """Keep a dimension that nobody would cut, such as the window of a convolution: it is not reported."""
        self.atoms.freeze(label, "")

    def keep_whole(self, why: str) -> Ruling:
        """Freeze everything that the call reads and gives."""
        for node in self.tensors:
            for label in self.labels(node):
                self.freeze(label, why)
        return Ruling(self.fixed())

    def describe(self) -> str:
        """The call as a user knows it, such as `conv2d of layer1.conv1`."""
        owner = owner_of(self.node)
        name = self.operator.split("::")[-1]
        return f"{name} of {owner}" if owner else name

    def broadcast(self, operands: Sequence[fx.Node]) -> Labels:
        """The labels of operands broadcast against each other; what meets is equated."""
        return self.broadcast_labels([(self.labels(node), self.shape(node)) for node in operands])

    def broadcast_labels(self, operands: Sequence[tuple[Labels, Shape]]) -> Labels:
        """The same from labels and shapes."""
        rank = max((len(shape) for _, shape in operands), default=0)
        result: list[Label] = []
        for axis in range(-rank, 0):
            met = [labels[axis] for labels, shape in operands if len(shape) >= -axis and shape[axis] != 1]
            label = met[0] if met else None
            for other in met[1:]:
                label = self.equate(label, other)
            result.append(label)
        return tuple(result)

    def fixed(self, outputs: Sequence[Shape | None] | None = None) -> tuple[Labels, ...]:
        """Outputs of which nothing may go."""
        return tuple((None,) * len(shape or ()) for shape in (self.output_shapes if outputs is None else outputs))

    def new(self, shape: Shape) -> Labels:
        """Fresh labels for a tensor that can have any size."""
        return tuple(self.atoms.fresh(size) if size > 1 else None for size in shape)


def is_shape(shapes: Any) -> TypeGuard[Shape]:
    """Whether a value of `Captured.shapes` is the shape of a single tensor."""
    return isinstance(shapes, tuple) and all(isinstance(size, int) for size in shapes)


def each_shape(shapes: Shapes) -> tuple[Shape | None, ...]:
    """A value of `Captured.shapes` as one shape for each output."""
    if shapes is None:
        return ()
    return (shapes,) if is_shape(shapes) else shapes  # type: ignore[return-value]


def operator_name(target: Any) -> str:
    """The name under which a call target is looked up in RULES.

    `aten::conv2d`, `higher_order::cond`, or the name of a Python function.
    """
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name
    if isinstance(target, torch._ops.HigherOrderOperator):
        return f"higher_order::{target.name()}"
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__name__', target)}"


def bind(node: fx.Node) -> dict[str, Any]:
    """The arguments of a call by name, with the defaults of the schema filled in."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return {str(i): value for i, value in enumerate(node.args)} | dict(node.kwargs)
    arguments = {argument.name: argument.default_value for argument in node.target._schema.arguments}
    names = [argument.name for argument in node.target._schema.arguments]
    return arguments | dict(zip(names, node.args, strict=False)) | dict(node.kwargs)


def owner_of(node: fx.Node) -> str:
    """The qualified name of the module whose forward made this call; empty for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    owners = [path for path, _ in stack.values() if "metadata_hook" not in path]
    return str(owners[-1]).replace("L['self'].", "") if owners else ""


Rule: TypeAlias = Callable[[Site], Ruling]
