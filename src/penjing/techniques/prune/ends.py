"""Where in the graph the units of a group begin, and where they end.

A unit begins where a layer gives it out: the output carries the group and none of the activations that enter does. It
ends where an activation that carries it enters an operator whose output does not: what is read there is all that the
rest of the model ever sees of the unit. Both follow from the labels alone, so that heads, packed projections, gates,
recurrent cells and residual streams need no case of their own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import fx

from penjing.structure import Coupling, Group
from penjing.structure.rules import Shapes, is_shape


@dataclass(frozen=True)
class End:
    """An activation, given by node `source`, enters operator `reader`: index i of `dim` is unit `units[i]`, or -1."""

    source: str
    reader: str
    dim: int
    group: str
    units: NDArray[np.int64]


@dataclass(frozen=True)
class Birth:
    """A layer gives out units along `dim` of one of its outputs, the first where a recurrent cell has several."""

    layer: str
    output: int
    dim: int


def ends_of(coupling: Coupling, groups: Sequence[Group]) -> tuple[End, ...]:
    """List the ends of groups, in the order of the graph.

    >>> import torch
    >>> from penjing.structure import couple
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> coupling = couple(model, torch.zeros(2, 3))
    >>> [(end.source, end.reader, end.dim, end.units.tolist()) for end in ends_of(coupling, coupling.groups)]
    [('relu', 'linear_1', 1, [0, 1, 2, 3])]
    """
    walk = _Walk(coupling, groups)
    return tuple(
        End(source.name, node.name, dim, groups[g].name, walk.units(source.name, dim, g))
        for node in walk.calls()
        for source in node.all_input_nodes
        if source in walk.activations
        if is_shape(coupling.captured.shapes[source.name])
        for _, dim, carried in walk.carried(source.name)
        for g in sorted(carried - walk.all_carried(node.name))
    )


def births_of(coupling: Coupling, groups: Sequence[Group]) -> tuple[Birth, ...]:
    """List the outputs of layers that give out units of groups, in the order of the graph.

    >>> import torch
    >>> from penjing.structure import couple
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> coupling = couple(model, torch.zeros(2, 3))
    >>> births_of(coupling, coupling.groups)
    (Birth(layer='linear', output=0, dim=1),)
    """
    walk = _Walk(coupling, groups)
    found = []
    for node in walk.calls():
        entering: set[int] = set()
        for source in node.all_input_nodes:
            if source in walk.activations:
                entering |= walk.all_carried(source.name)
        outputs = [(i, dim) for i, dim, carried in walk.carried(node.name) if carried - entering]
        found += [Birth(node.name, i, dim) for i, dim in outputs if i == outputs[0][0]]
    return tuple(found)


def touched_by(coupling: Coupling, groups: Sequence[Group]) -> frozenset[str]:
    """Name the nodes that carry a unit of a group, and the operators that read one."""
    walk = _Walk(coupling, groups)
    carriers = {node for node in coupling.captured.module.graph.nodes if walk.all_carried(node.name)}
    return frozenset(node.name for node in carriers) | {user.name for node in carriers for user in node.users}


class _Walk:
    """Which groups each node carries, along which of its dimensions."""

    def __init__(self, coupling: Coupling, groups: Sequence[Group]) -> None:
        self._labelling, self._shapes = coupling.labelling, coupling.captured.shapes
        self._graph = coupling.captured.module.graph
        self._group = np.full(self._labelling.atoms.count, -1, dtype=np.int64)
        self._unit = np.full(self._labelling.atoms.count, -1, dtype=np.int64)
        for g, group in enumerate(groups):
            self._group[group.ids], self._unit[group.ids] = g, np.arange(group.size)
        self.activations = _activations(self._graph, self._shapes)

    def calls(self) -> Iterator[fx.Node]:
        """The operators that work on activations and give tensors."""
        return (
            node
            for node in self._graph.nodes
            if node.op == "call_function" and node in self.activations and self._shapes[node.name] is not None
        )

    def carried(self, name: str) -> Iterator[tuple[int, int, set[int]]]:
        """The groups along each dimension of each output of a node: (output, dimension, groups)."""
        for output, labels in enumerate(self._labelling.labels.get(name, ())):
            for dim, label in enumerate(labels):
                if label is not None:
                    found = np.unique(self._group[self._labelling.expanded(label)])
                    if found[-1] >= 0:
                        yield output, dim, set(found[found >= 0].tolist())

    def all_carried(self, name: str) -> set[int]:
        """The groups that any output of a node carries."""
        return {g for _, _, groups in self.carried(name) for g in groups}

    def units(self, name: str, dim: int, g: int) -> NDArray[np.int64]:
        """The unit of a group at each index of a dimension of a node's only output, -1 where there is none."""
        label = self._labelling.labels[name][0][dim]
        assert label is not None
        ids = self._labelling.expanded(label)
        units: NDArray[np.int64] = np.where(self._group[ids] == g, self._unit[ids], -1).max(axis=1)
        return units


def _activations(graph: fx.Graph, shapes: Mapping[str, Shapes]) -> set[fx.Node]:
    """The nodes whose values depend on values of an input; what only asks for its size does not."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        reads = node.op == "placeholder" or any(source in found for source in node.all_input_nodes)
        if reads and shapes.get(node.name) is not None:
            found.add(node)
    return found
