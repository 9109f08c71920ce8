"""Run a graph up to a node, piece by piece, so that what comes later can be changed by what was seen before."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from penjing.techniques.quantize.calibrate import Inputs
from penjing.workload import tree

ROOM = 2**24


def room_beside(module: fx.GraphModule) -> int:
    """Bytes of values that a walk may hold between two stops: those of the weights, or ROOM where that is more."""
    sizes: list[int] = [x.nbytes for x in module.state_dict().values()]
    return max(ROOM, sum(sizes))


class Walk:
    """A run of a graph on pieces of data that stops where it is told to, and never turns back.

    Each piece runs alone. Between two stops it holds the values that are still to be read, if those of all pieces have
    room; else it holds those of an earlier stop, as at the end of a block, where they are few, and runs again from
    there. What depends on no input is computed anew after each stop, so that a constant which changed counts with its
    new value.
    """

    def __init__(self, module: fx.GraphModule, pieces: Sequence[Inputs]) -> None:
        self._machine = fx.Interpreter(module)
        self._pieces = pieces
        self._nodes = list(module.graph.nodes)
        self._place = {node: place for place, node in enumerate(self._nodes)}
        self._last_read: dict[fx.Node, int] = {}  # of what depends on an input
        for node in self._nodes:
            if node.op == "placeholder" or any(x in self._last_read for x in node.all_input_nodes):
                self._last_read[node] = max((self._place[user] for user in node.users), default=-1)
        self._held: list[tuple[int, dict[fx.Node, Any]]] = [(0, {})] * len(pieces)  # from where on each piece runs
        self._room = room_beside(module)
        self._stop: fx.Node | None = None
        self._constants: dict[fx.Node, Any] = {}

    @torch.no_grad()
    def before(self, stop: fx.Node, piece: int) -> Mapping[fx.Node, Any]:
        """Values of a piece before a node, of all nodes that are still to be read."""
        if stop is not self._stop:
            self._stop, self._constants = stop, {}
        start, held = self._held[piece]
        values, end = dict(held), self._place[stop]
        inputs = iter(self._pieces[piece]) if start == 0 else iter(())
        for place in range(start, end):
            node = self._nodes[place]
            if node.op == "placeholder":
                values[node] = next(inputs)
            elif node in self._last_read:
                values[node] = self._call(node, values)
                for x in {node, *node.all_input_nodes}:
                    if self._last_read.get(x, end) <= place:
                        del values[x]
        room = self._room + _bytes(held)
        if (size := _bytes(values)) <= room:
            self._held[piece] = end, values
            self._room = room - size
        return values

    def _call(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        def read(x: fx.Node) -> Any:
            if x in self._last_read:
                return values[x]
            if x not in self._constants:
                self._constants[x] = self._call(x, values)
            return self._constants[x]

        args, kwargs = fx.node.map_arg((node.args, node.kwargs), read)
        return getattr(self._machine, node.op)(node.target, args, kwargs)


def _bytes(values: Mapping[fx.Node, Any]) -> int:
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage() for x in tree.tensors(list(values.values()))}
    return sum(each.nbytes() for each in storages.values())
