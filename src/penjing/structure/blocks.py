"""Residual blocks: branches f of y = x + f(x) that can be left out, because what follows accepts x as well as y.

A branch is found from the graph alone. It ends at a sum; one term of the sum, the skip x, is what every other term
depends on; and nothing inside the branch is read outside it. Whatever else a branch reads (weights, masks, rotary
tables, the output of an encoder, the embedding of a time step) comes from the side and stays where others need it.

    pre-norm    y = x + f(norm(x))      the branch goes with its norm
    post-norm   y = norm(x + f(x))      the branch goes, the norm stays
    parallel    y = x + f(x) + g(x)     both go at once
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import takewhile

from torch import Tensor, fx

from penjing.structure.capture import Captured
from penjing.structure.flow import Flow
from penjing.structure.rules import bind, operator_name

_SUMS = ("aten::add", "aten::add_")
_SAME = ("aten::to", "aten::clone", "aten::contiguous", "aten::alias", "aten::detach", "aten::dropout")


@dataclass(frozen=True)
class Residual:
    """A sum of which one term is the skip: names of the node of the sum, of the skip, and of the other terms."""

    output: str
    skip: str
    ends: tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """What can be bypassed as one: one residual branch, or the branches of one layer of a transformer.

    `owner` is the path of the module that holds the weights, which names the block where it is the only one there.
    `nodes` are the nodes that go with it and `parameters` the names of the weights that nothing else reads.
    """

    name: str
    owner: str
    residuals: tuple[Residual, ...]
    nodes: frozenset[str]
    parameters: tuple[str, ...]

    @property
    def skip(self) -> str:
        """The node that comes in."""
        return self.residuals[0].skip

    @property
    def output(self) -> str:
        """The node that goes out."""
        return self.residuals[-1].output

    def contains(self, other: "Block") -> bool:
        """Whether another block goes with this one."""
        return other.nodes < self.nodes


def find_blocks(captured: Captured) -> tuple[Block, ...]:
    """Every block of a captured model that can be bypassed, in the order of the graph, a layer after its parts.

    Blocks may overlap: a layer holds its attention and its MLP, and a branch may hold others. `layers` and `branches`
    choose from them.

    >>> import torch
    >>> from penjing.structure import capture
    >>> from penjing.workload.samples import ResNet
    >>> captured = capture(ResNet((2, 2), (4, 8)), torch.zeros(2, 1, 8, 8))
    >>> [(block.name, len(block.parameters)) for block in find_blocks(captured)]
    [('blocks.0', 6), ('blocks.1', 6), ('blocks.3', 6)]
    """
    finder = _Finder(captured)
    found = [branch for node in finder.place if (branch := finder.branch(node)) is not None]
    found = [branch for branch in found if len(branch.parameters) < len(finder.parameters)]
    inner = [a for a in found if not any(b.nodes < a.nodes for b in found)]
    blocks = [*_named(found), *(_layer(finder, name, parts) for name, parts in _layers(inner))]
    place = {node.name: i for node, i in finder.place.items()}
    return tuple(sorted(blocks, key=lambda block: (place[block.output], len(block.nodes))))


def branches(blocks: Iterable[Block]) -> tuple[Block, ...]:
    """The single branches that hold no other block."""
    blocks = tuple(blocks)
    return tuple(b for b in blocks if len(b.residuals) == 1 and not any(b.contains(other) for other in blocks))


def layers(blocks: Iterable[Block]) -> tuple[Block, ...]:
    """What a user calls a layer: all branches of one module together, and each branch that has no such company."""
    blocks = tuple(blocks)
    single = branches(blocks)
    rest = [b for b in blocks if len(b.residuals) > 1 or b in single]
    return tuple(b for b in rest if not any(other.contains(b) for other in rest))


@dataclass(frozen=True)
class _Branch:
    """A branch before it has a name: `weights` are the parameters that its nodes read, `kind` its operators."""

    residual: Residual
    owner: str
    gone: frozenset[fx.Node]
    parameters: tuple[str, ...]
    weights: tuple[str, ...]
    kind: tuple[str, ...]

    @property
    def nodes(self) -> frozenset[str]:
        return frozenset(node.name for node in self.gone)


class _Finder:
    """A captured graph, and what is needed to judge a branch of it."""

    def __init__(self, captured: Captured) -> None:
        self.shapes = captured.shapes
        self.tensors = captured.tensors
        self.parameters = captured.parameters
        self.flow = Flow(captured.module.graph)
        self.place = {node: i for i, node in enumerate(self.flow.nodes)}

    def branch(self, total: fx.Node) -> _Branch | None:
        """The branch that ends at a node, where that is a sum with a skip."""
        shape = self.shapes.get(total.name)
        terms = list(self._terms(total)) if _is_sum(total) and shape else []
        for skip, is_scaled in terms:
            if is_scaled or self.shapes.get(skip.name) != shape:
                continue
            ends = [term for term, _ in terms if term is not skip]
            carried = self._carried(skip)
            nodes = self._between(carried[-1], total) - set(carried)
            if ends and nodes.issuperset(ends):
                return self._closed(skip, ends, total, nodes)
        return None

    def _terms(self, total: fx.Node) -> Iterator[tuple[fx.Node, bool]]:
        """The terms of a sum, and whether each is scaled; sums that only this one reads are opened."""
        arguments = bind(total)
        for name, scale in (("self", 1), ("other", arguments["alpha"])):
            term = self.flow.value(arguments[name], total)
            if isinstance(term, fx.Node) and scale == 1 and _is_sum(term) and self.flow.readers[term] == {total}:
                yield from self._terms(term)
            elif isinstance(term, fx.Node):
                yield term, scale != 1

    def _carried(self, skip: fx.Node) -> list[fx.Node]:
        """The skip and the nodes whose value it has, such as the one of which it is a cast."""
        chain = [skip]
        while chain[-1].op == "call_function" and operator_name(chain[-1].target) in _SAME:
            chain.append(self.flow.value(chain[-1].args[0], chain[-1]))
        return chain

    def _between(self, skip: fx.Node, total: fx.Node) -> set[fx.Node]:
        """The nodes on the paths from the skip to the sum, without both ends."""
        span = self.flow.nodes[self.place[skip] + 1 : self.place[total]]
        reached = {skip}
        for node in span:
            if not reached.isdisjoint(self.flow.sources[node]):
                reached.add(node)
        leading = {total}
        for node in reversed(span):
            if not leading.isdisjoint(self.flow.readers[node]):
                leading.add(node)
        return (reached & leading) - {skip, total}

    def _closed(self, skip: fx.Node, ends: list[fx.Node], total: fx.Node, nodes: set[fx.Node]) -> _Branch | None:
        """The branch, where nothing outside reads or is written by its nodes, and it holds a matrix of weights."""
        outside = {reader for node in nodes for reader in self.flow.readers[node]} - nodes - {total}
        while outside:
            if not outside <= self.flow.useless:
                return None
            nodes |= outside
            outside = {reader for node in outside for reader in self.flow.readers[node]} - nodes
        if any(written not in nodes for node in nodes for written in self.flow.written(node)):
            return None
        gone = self.flow.gone_with(nodes, but={skip})
        weights = self.weights(gone)
        if not any(_is_matrix(self.tensors[name]) for name in weights):
            return None
        paths: list[Sequence[str]] = [name.split(".")[:-1] for name in weights]
        owner = self.outermost(reduce(common_path, paths))
        residual = Residual(total.name, skip.name, tuple(end.name for end in ends))
        kind = tuple(operator_name(node.target) for node in sorted(nodes, key=self.place.__getitem__))
        return _Branch(residual, owner, frozenset(gone), self.only_in(gone), weights, kind)

    def weights(self, nodes: Collection[fx.Node]) -> tuple[str, ...]:
        """The parameters that some nodes read, in the order of the graph."""
        read = {str(source.target) for node in nodes for source in node.all_input_nodes if source.op == "get_attr"}
        return tuple(name for name in self.parameters if name in read)

    def only_in(self, gone: Collection[fx.Node]) -> tuple[str, ...]:
        """The parameters that no other node reads."""
        rest = {str(node.target) for node in self.flow.nodes if node.op == "get_attr" and node not in gone}
        return tuple(name for name in self.weights(gone) if name not in rest)

    def outermost(self, path: Sequence[str]) -> str:
        """The path of the outermost module that holds no more weights than this one, or the item of a list on the way.

        A branch of `features.3.conv` is called `features.3`.
        """
        while len(path) > 1 and not path[-1].isdigit() and self._held(path[:-1]) == self._held(path):
            path = path[:-1]
        return ".".join(path)

    def _held(self, path: Sequence[str]) -> int:
        return sum(name.startswith(".".join(path) + ".") for name in self.parameters)


def _is_sum(node: fx.Node) -> bool:
    return node.op == "call_function" and operator_name(node.target) in _SUMS


def _is_matrix(tensor: Tensor) -> bool:
    return sum(size > 1 for size in tensor.shape) > 1


def common_path(a: Sequence[str], b: Sequence[str]) -> Sequence[str]:
    """What two paths have in common from their roots on."""
    return [x for x, _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))]


def _named(found: Sequence[_Branch]) -> Iterator[Block]:
    """Blocks of one branch each, under the names of their owners, or of the main child where the owner has more."""
    used: dict[str, int] = defaultdict(int)
    for branch in found:
        name = branch.owner
        if not name or any(_is_within(other.owner, name) for other in _apart_from(branch, found)):
            name = _main_child(branch)
        used[name] += 1
        name = name if used[name] == 1 else f"{name}:{used[name]}"
        yield Block(name, branch.owner, (branch.residual,), branch.nodes, branch.parameters)


def _apart_from(branch: _Branch, found: Sequence[_Branch]) -> Iterator[_Branch]:
    """Branches that neither hold this one nor are held by it, nor are another call of the same module."""
    for other in found:
        if not (other.gone <= branch.gone or branch.gone <= other.gone or other.weights == branch.weights):
            yield other


def _is_within(path: str, module: str) -> bool:
    return path == module or path.startswith(f"{module}.")


def _main_child(branch: _Branch) -> str:
    """The path, one below the owner, that holds most of the branch's weights."""
    depth = branch.owner.count(".") + 2 if branch.owner else 1
    children = [".".join(name.split(".")[:depth]) for name in branch.weights]
    return max(dict.fromkeys(children), key=children.count)


def _layers(inner: Sequence[_Branch]) -> Iterator[tuple[str, Sequence[_Branch]]]:
    """The innermost modules that hold several branches of different kinds, one call of the module at a time.

    A stage of equal residual blocks is no layer: it holds two of a kind, and no second stage repeats its sequence.
    """
    members: dict[str, list[_Branch]] = defaultdict(list)
    for branch in inner:
        parts = branch.owner.split(".")
        for depth in range(1, len(parts) + 1):
            members[".".join(parts[:depth])].append(branch)
    several = [path for path, those in members.items() if path and len({b.weights for b in those}) > 1]
    innermost = [path for path in several if not any(p != path and _is_within(p, path) for p in several)]
    calls = [(path, call) for path in innermost for call in _calls(members[path])]
    kinds = [tuple(branch.kind for branch in call) for _, call in calls]
    used: dict[str, int] = defaultdict(int)
    for (path, call), kind in zip(calls, kinds, strict=True):
        different = len(set(kind))
        if different > 1 and (different == len(kind) or kinds.count(kind) > 1):
            used[path] += 1
            yield (path if used[path] == 1 else f"{path}:{used[path]}"), call


def _calls(those: Sequence[_Branch]) -> Iterator[Sequence[_Branch]]:
    """Split the branches of a module that is called several times where its first weights come again."""
    call: list[_Branch] = []
    for branch in those:
        if any(branch.weights == earlier.weights for earlier in call):
            yield call
            call = []
        call.append(branch)
    yield call


def _layer(finder: _Finder, name: str, parts: Sequence[_Branch]) -> Block:
    residuals = tuple(part.residual for part in parts)
    skips = {node for node in finder.place if node.name in {residual.skip for residual in residuals}}
    gone = finder.flow.gone_with(frozenset[fx.Node]().union(*(part.gone for part in parts)), but=skips)
    nodes = frozenset(node.name for node in gone)
    path, colon, number = name.partition(":")
    owner = finder.outermost(path.split("."))
    return Block(owner + colon + number, owner, residuals, nodes, finder.only_in(gone))
