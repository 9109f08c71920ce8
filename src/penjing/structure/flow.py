"""What each node of a graph reads and who reads it, once writes in place are seen as new values."""

from collections import defaultdict
from collections.abc import Collection
from typing import Any

import torch
from torch import fx

_MAY_ALIAS = ("aten::dropout", "aten::feature_dropout", "aten::alpha_dropout")  # in eval mode they give their input


class Flow:
    """The edges of a graph, and the memory behind its nodes.

    `root` maps a node to the one that made the memory it lies in. `sources` maps a node to the nodes whose values it
    reads: after `b = relu_(a)`, a reader of `a` reads `b`. `readers` is the inverse. Nothing comes of the `useless`
    nodes, such as checks of sizes.

    >>> graph = fx.Graph()
    >>> a = graph.call_function(torch.ops.aten.neg.default, (graph.placeholder("x"),))
    >>> b = graph.call_function(torch.ops.aten.relu_.default, (a,))
    >>> c = graph.call_function(torch.ops.aten.add.Tensor, (a, a))
    >>> flow = Flow(graph)
    >>> flow.sources[c], flow.root[b], flow.written(b)
    ((relu__default,), neg_default, (neg_default,))
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.nodes: tuple[fx.Node, ...] = tuple(graph.nodes)
        self.root: dict[fx.Node, fx.Node] = {}
        self.sources: dict[fx.Node, tuple[fx.Node, ...]] = {}
        self._values: dict[fx.Node, dict[fx.Node, fx.Node]] = {}
        latest: dict[fx.Node, fx.Node] = {}
        writers: dict[fx.Node, list[fx.Node]] = defaultdict(list)
        for node in self.nodes:
            base = _base(node)
            self.root[node] = node if base is None else self.root[base]
            values = {source: latest.get(source, source) for source in node.all_input_nodes}
            self._values[node] = values
            parts = [writer for source in node.all_input_nodes for writer in writers[self.root[source]]]
            self.sources[node] = tuple(dict.fromkeys([*values.values(), *parts]))
            for source in _written(node):
                writers[self.root[source]].append(node)
                if base is source:
                    for earlier in [source, *(a for a, b in latest.items() if b is values[source])]:
                        latest[earlier] = node
        self.readers: dict[fx.Node, set[fx.Node]] = defaultdict(set)
        for node in self.nodes:
            for source in self.sources[node]:
                self.readers[source].add(node)
        self.useless: set[fx.Node] = set()
        for node in reversed(self.nodes):
            if node.op == "call_function" and self.readers[node] <= self.useless and not _written(node):
                self.useless.add(node)

    def value(self, argument: Any, reader: fx.Node) -> Any:
        """What an argument of a call is when it is read."""
        return self._values[reader].get(argument, argument) if isinstance(argument, fx.Node) else argument

    def family(self, node: fx.Node) -> set[fx.Node]:
        """The nodes that lie in the memory of this one, and itself."""
        root = self.root.get(node, node)
        return {node, *(other for other, its in self.root.items() if its is root)}

    def is_written_after(self, node: fx.Node) -> bool:
        """Whether a later call writes into the memory of a node."""
        later = self.nodes[self.nodes.index(node) + 1 :]
        return any(self.root[node] in self.written(other) for other in later)

    def written(self, node: fx.Node) -> tuple[fx.Node, ...]:
        """The nodes that made the memory into which a call writes."""
        return tuple(self.root[source] for source in _written(node))

    def gone_with(self, branch: Collection[fx.Node], but: Collection[fx.Node]) -> set[fx.Node]:
        """The nodes of a branch, and those that only it reads: weights, and what is computed beside it for it."""
        gone = set(branch)
        reached = list(branch)
        while reached:
            for source in reached.pop().all_input_nodes:
                users = set(source.users)
                if source not in gone and source not in but and users <= gone | self.useless and _may_go(source):
                    gone |= users | {source}
                    reached.append(source)
        return gone


def _written(node: fx.Node) -> list[fx.Node]:
    """The arguments into which a call writes."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return []
    return [
        source
        for i, argument in enumerate(node.target._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
        for source in _nodes(node.args[i] if i < len(node.args) else node.kwargs.get(argument.name))
    ]


def _nodes(value: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.node.map_arg(value, found.append)
    return found


def _base(node: fx.Node) -> fx.Node | None:
    """The argument in whose memory a call's result lies, as a view of it or written in place."""
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
        return None
    if not isinstance(node.target, torch._ops.OpOverload):
        return node.args[0] if getattr(node.target, "__name__", "") == "getitem" else None
    schema = node.target._schema
    shares = any(result.alias_info is not None for result in schema.returns)
    return node.args[0] if shares or schema.name in _MAY_ALIAS else None


def _may_go(node: fx.Node) -> bool:
    return node.op == "get_attr" or (node.op == "call_function" and not node.is_impure())
