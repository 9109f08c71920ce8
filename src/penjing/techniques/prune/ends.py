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
from penjing.structure.rules import Labels, is_shape


@dataclass(frozen=True)
class End:
    """An activation, given by node `source`, enters operator `reader`: index i of `dim` is unit `units[i]`, or -1."""

    source: str
    reader: str
    dim: int
    group: str
    units: NDArray[np.int64]


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
        for dim, carried in walk.carried(source.name)
        for g in sorted(carried - walk.all_carried(node.name))
    )


def births_of(coupling: Coupling, groups: Sequence[Group]) -> tuple[tuple[str, int], ...]:
    """List (node, dim): the outputs of layers that give out units of a group, and along which dimension.

    >>> import torch
    >>> from penjing.structure import couple
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> coupling = couple(model, torch.zeros(2, 3))
    >>> births_of(coupling, coupling.groups)
    (('linear', 1),)
    """
    walk = _Walk(coupling, groups)
    found = []
    for node in walk.calls():
        entering: set[int] = set()
        for source in node.all_input_nodes:
            if source in walk.activations:
                entering |= walk.all_carried(source.name)
        found += [(node.name, dim) for dim, carried in walk.carried(node.name) if carried - entering]
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
        self.activations = _activations(self._graph)

    def calls(self) -> Iterator[fx.Node]:
        """The operators that work on activations and give a single tensor."""
        return (
            node
            for node in self._graph.nodes
            if node.op == "call_function" and node in self.activations and is_shape(self._shapes[node.name])
        )

    def carried(self, name: str) -> Iterator[tuple[int, set[int]]]:
        """The groups along each dimension of a node that gives a single tensor."""
        for dim, label in enumerate(self._labels(name)):
            if label is not None:
                found = np.unique(self._group[self._labelling.expanded(label)])
                if found[-1] >= 0:
                    yield dim, set(found[found >= 0].tolist())

    def all_carried(self, name: str) -> set[int]:
        """The groups that any output of a node carries."""
        labels = [label for each in self._labelling.labels.get(name, ()) for label in each if label is not None]
        found = [np.unique(self._group[self._labelling.expanded(label)]) for label in labels]
        return set(np.concatenate(found).tolist()) - {-1} if found else set()

    def units(self, name: str, dim: int, g: int) -> NDArray[np.int64]:
        """The unit of a group at each index of a dimension, -1 where there is none."""
        label = self._labels(name)[dim]
        assert label is not None
        ids = self._labelling.expanded(label)
        units: NDArray[np.int64] = np.where(self._group[ids] == g, self._unit[ids], -1).max(axis=1)
        return units

    def _labels(self, name: str) -> Labels:
        found: Mapping[str, tuple[Labels, ...]] = self._labelling.labels
        return found[name][0] if len(found.get(name, ())) == 1 else ()


def _activations(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that depend on an input of the model."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or any(source in found for source in node.all_input_nodes):
            found.add(node)
    return found
