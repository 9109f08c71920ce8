"""Run a graph node by node, on all batches at once, so that what comes later can be changed by what was seen before."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from penjing.techniques.quantize.calibrate import Inputs


class Walk:
    """A run of a graph that stops where it is told to.

    What is held are the values, one for each batch, that are still to be read. What depends on no input is computed
    when it is read, so that a constant which changed on the way counts with its new value.
    """

    def __init__(self, module: fx.GraphModule, batches: Sequence[Inputs]) -> None:
        self._machine = fx.Interpreter(module)
        self._inputs = [iter(batch) for batch in batches]
        self._values: dict[fx.Node, list[Any]] = {}
        self._to_come = list(reversed(module.graph.nodes))
        self._varying: set[fx.Node] = set()
        for node in module.graph.nodes:
            if node.op == "placeholder" or any(x in self._varying for x in node.all_input_nodes):
                self._varying.add(node)
        self._reads = Counter(x for node in self._varying for x in node.all_input_nodes)
        self._batches = len(self._inputs)

    @torch.no_grad()
    def before(self, name: str) -> fx.Node:
        """Run all that comes before the node of that name, and give the node."""
        while self._to_come[-1].name != name:
            node = self._to_come.pop()
            if node in self._varying and node.op != "output":
                for x in node.all_input_nodes:
                    self._reads[x] -= 1
                done = [x for x in node.all_input_nodes if x in self._values and not self._reads[x]]
                outputs = self._run(node, done)
                for x in done:
                    del self._values[x]
                if self._reads[node]:
                    self._values[node] = outputs
        found: fx.Node = self._to_come[-1]
        return found

    @torch.no_grad()
    def run(self, node: fx.Node) -> list[Any]:
        """What the node gives for each batch, from values that are held."""
        return self._run(node, ())

    def _run(self, node: fx.Node, last_reads: Collection[fx.Node]) -> list[Any]:
        """Run a node; of what it reads last, the values of a batch go as soon as that batch is done."""
        if node.op == "placeholder":
            return [next(each) for each in self._inputs]
        constants: dict[fx.Node, Any] = {}
        for x in node.all_input_nodes:
            if x not in self._varying:
                self._compute(x, constants)
        outputs = []
        for i in range(self._batches):
            varying = {x: self._values[x][i] for x in node.all_input_nodes if x in self._values}
            outputs.append(self._call(node, {**constants, **varying}))
            for x in last_reads:
                self._values[x][i] = None
        return outputs

    def values(self, node: fx.Node) -> list[Any]:
        """The value of a node that has run and is still to be read, for each batch."""
        return self._values[node]

    def holds(self, node: fx.Node) -> bool:
        """Whether a node has run and is still to be read."""
        return node in self._values

    def _compute(self, node: fx.Node, known: dict[fx.Node, Any]) -> None:
        for x in node.all_input_nodes:
            if x not in known:
                self._compute(x, known)
        known[node] = self._call(node, known)

    def _call(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
        return getattr(self._machine, node.op)(node.target, args, kwargs)
