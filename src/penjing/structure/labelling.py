"""The walk over a graph: every dimension of every tensor gets its label, operator by operator."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from penjing.structure.atoms import Atoms, Ids, Label
from penjing.structure.capture import Captured, fetch
from penjing.structure.rules import (
    Labels,
    Ruling,
    Shapes,
    Site,
    each_shape,
    find_rule,
    frozen_because,
    operator_name,
    owner_of,
)
from penjing.structure.rules.vanishing import vanishes


@dataclass
class Labelling:
    """Labels of every node's outputs, of every parameter, and what the rules said."""

    atoms: Atoms
    node_module: Mapping[str, str]
    eager_safe: bool = False
    labels: dict[str, tuple[Labels, ...]] = field(default_factory=dict)
    parameters: dict[str, Labels] = field(default_factory=dict)
    rulings: dict[str, Ruling] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    vanishing: set[str] = field(default_factory=set)
    inputs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _bases: dict[str, str] = field(default_factory=dict)
    _views: dict[str, set[str]] = field(default_factory=dict)
    _expanded: dict[int, tuple[Ids, Ids]] = field(default_factory=dict)

    def expanded(self, label: Ids) -> Ids:
        """A label in atomic ids, remembered."""
        if id(label) not in self._expanded:
            self._expanded[id(label)] = (
                label,
                self.atoms.expand(label),
            )  # the label is held, so that its id stays its own
        return self._expanded[id(label)][1]

    def labels_near(self, name: str) -> list[Label]:
        """Every label of the outputs and inputs of a node."""
        return [label for node in (name, *self.inputs[name]) for each in self.labels.get(node, ()) for label in each]

    def shares_memory(self, name: str, source: str) -> set[str]:
        """Note that a node shows the memory of another; returns all nodes that show it."""
        base = self._bases.get(source, source)
        self._bases[name] = base
        views = self._views.setdefault(base, {base})
        views.add(name)
        return views


def label_graph(captured: Captured, *, eager_safe: bool = False) -> Labelling:
    """Walk over the graph in order. Inputs and outputs of the model are kept whole.

    `eager_safe` leaves only cuts that the code of the model's own class has a chance to survive: parts of a chunk lose
    the same indices, heads go whole, and fixed positions stay where they are.
    """
    labelling = Labelling(Atoms(), captured.node_module, eager_safe)
    atoms, shared = labelling.atoms, dict[int, Labels]()
    for node in captured.module.graph.nodes:
        shapes = captured.shapes.get(node.name)
        labelling.inputs[node.name] = tuple(source.name for source in node.all_input_nodes)
        if node.op == "get_attr":
            value = fetch(captured.module, str(node.target))
            if isinstance(value, Tensor):
                if id(value) not in shared:
                    shared[id(value)] = tuple(atoms.fresh(size) if size > 1 else None for size in value.shape)
                    labelling.parameters[str(node.target)] = shared[id(value)]
                labelling.labels[node.name] = (shared[id(value)],)
                labelling.vanishing.add(node.name)
        elif node.op == "placeholder":
            labelling.labels[node.name] = _fixed(shapes)
        elif node.op == "call_function":
            labelling.labels[node.name] = _call(labelling, node, captured.shapes)
            _follow_memory(labelling, node)
        else:
            _freeze_inputs(
                labelling, node, "it is an output of the model" if node.op == "output" else f"{node.op} is unknown"
            )
    _freeze_unread(captured, labelling)
    labelling.parameters = _in_order_of_use(captured, labelling.parameters)
    return labelling


def _freeze_unread(captured: Captured, labelling: Labelling) -> None:
    """Keep what no operator reads, such as a head that only training uses: the graph cannot say what it goes with."""
    tensors = captured.tensors
    read = {id(tensors[str(node.target)]) for node in captured.module.graph.nodes if _is_read(node, tensors)}
    for name, labels in labelling.parameters.items():
        if id(tensors[name]) not in read:
            for label in labels:
                labelling.atoms.freeze(label, "nothing reads it in eval mode")


def _is_read(node: fx.Node, tensors: Mapping[str, Tensor]) -> bool:
    return node.op == "get_attr" and node.target in tensors and bool(node.users)


def _in_order_of_use(captured: Captured, parameters: Mapping[str, Labels]) -> dict[str, Labels]:
    """The first parameter that carries a group is then the one that makes it. Tied names count as one."""
    position = {node: i for i, node in enumerate(captured.module.graph.nodes)}
    tensors = captured.tensors
    first: dict[int, int] = {}
    for node in position:
        if node.op == "get_attr" and node.target in tensors:
            used = min((position[user] for user in node.users), default=len(position))
            key = id(tensors[node.target])
            first[key] = min(used, first.get(key, used))
    return {name: parameters[name] for name in sorted(parameters, key=lambda name: first[id(tensors[name])])}


def _call(labelling: Labelling, node: fx.Node, shapes: Mapping[str, Shapes]) -> tuple[Labels, ...]:
    """Ask the rule of an operator; where there is none, or it cannot answer, freeze what the operator touches."""
    name = operator_name(node.target)
    rule, known = find_rule(name), frozen_because(name)
    if rule is None:
        problem = f"this operator {known}" if known else "there is no rule for this operator"
    else:
        try:
            site = Site(
                node, labelling.atoms, labelling.labels, shapes, labelling.vanishing, eager_safe=labelling.eager_safe
            )
            ruling = rule(site)
            _check(ruling, shapes[node.name])
        except Exception as error:  # a rule may be anyone's code; without an answer nothing is cut
            problem = f"its rule failed on {node.name} ({type(error).__name__}: {error})"
        else:
            labelling.rulings[node.name] = ruling
            if all(vanishes(site, labels) for labels in ruling.outputs):
                labelling.vanishing.add(node.name)
            return ruling.outputs
    if not known and any(labelling.atoms.has_free(label) for label in labelling.labels_near(node.name)):
        labelling.unknown.setdefault(name, problem)
    owner = owner_of(node)
    short = name.removeprefix("aten::").removeprefix("higher_order::")
    _freeze_inputs(labelling, node, f"it enters {short}{f' of {owner}' if owner else ''}: {problem}")
    return _fixed(shapes[node.name])


def _follow_memory(labelling: Labelling, node: fx.Node) -> None:
    """Writing into a view changes what later readers of its base see: it vanishes no longer unless the result does.

    Labels need no such care, for a view carries the labels of its base.
    """
    if node.target is operator.getitem:
        labelling.shares_memory(node.name, str(node.args[0]))
    if not isinstance(node.target, torch._ops.OpOverload):
        return
    arguments = [argument.alias_info for argument in node.target._schema.arguments]
    for alias, value in zip(arguments, node.args, strict=False):
        if alias is not None and isinstance(value, fx.Node):
            views = labelling.shares_memory(node.name, value.name)
            if alias.is_write and node.name not in labelling.vanishing:
                labelling.vanishing -= views


def _check(ruling: Ruling, shapes: Shapes) -> None:
    """Labels must have the sizes of the tensors that they describe."""
    if shapes is None:
        return
    expected = each_shape(shapes)
    if len(expected) != len(ruling.outputs):
        raise ValueError(f"{len(ruling.outputs)} outputs labelled, {len(expected)} expected")
    for labels, shape in zip(ruling.outputs, expected, strict=True):
        sizes = tuple(size if label is None else len(label) for label, size in zip(labels, shape or (), strict=True))
        if sizes != (shape or ()):
            raise ValueError(f"labels of sizes {sizes} for a tensor of shape {shape}")


def _fixed(shapes: Shapes) -> tuple[Labels, ...]:
    return tuple((None,) * len(shape or ()) for shape in each_shape(shapes))


def _freeze_inputs(labelling: Labelling, node: fx.Node, reason: str) -> None:
    for source in node.all_input_nodes:
        for labels in labelling.labels.get(source.name, ()):
            for label in labels:
                labelling.atoms.freeze(label, reason)
