"""What a captured model costs, as a pure function of its graph and the shapes in it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import fx

from penjing.profiling.formulas import Call, Cost, UnknownShapeError, find_formula
from penjing.structure import Captured
from penjing.structure.rules import Shapes, operator_name


@dataclass(frozen=True, slots=True)
class NodeCost:
    """One call: its node in the graph, its operator, and the module to which it belongs ("" is the model itself)."""

    node: str
    operator: str
    module: str
    cost: Cost


@dataclass(frozen=True, slots=True)
class Uncounted:
    """An operator without a formula, or with an unknown shape, and where it is called."""

    operator: str
    nodes: tuple[str, ...]
    why: str

    @property
    def count(self) -> int:
        """Number of calls."""
        return len(self.nodes)


@dataclass(frozen=True)
class Costs:
    """The cost of each call of a model, and the calls of which nothing is known."""

    rows: tuple[NodeCost, ...]
    uncounted: tuple[Uncounted, ...]

    @property
    def total(self) -> Cost:
        """The cost of one forward pass."""
        return _sum(row.cost for row in self.rows)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one forward pass."""
        return sum(row.cost.macs for row in self.rows)

    def by_operator(self) -> dict[str, Cost]:
        """Sum over the calls of each operator."""
        return _grouped((row.operator, row.cost) for row in self.rows)

    def by_module(self) -> dict[str, Cost]:
        """Sum over the calls that belong to each module itself, its submodules left out."""
        return _grouped((row.module, row.cost) for row in self.rows)

    def by_node(self) -> dict[str, Cost]:
        """The cost of each call."""
        return {row.node: row.cost for row in self.rows}


def cost(captured: Captured, shapes: Mapping[str, Shapes] | None = None) -> Costs:
    """Count the operations of one forward pass.

    `shapes` maps node names to output shapes: by default those at `captured.example`; those of `coupling.shapes_after`
    give the cost of a cut before it is made. A call that cannot be counted is a row in `.uncounted`, never a zero.

    >>> from torch import nn, zeros
    >>> from penjing.structure import capture
    >>> cost(capture(nn.Linear(8, 4), zeros(2, 8))).macs
    64
    """
    shapes = captured.shapes if shapes is None else shapes
    rows: list[NodeCost] = []
    unknown: dict[tuple[str, str], list[str]] = defaultdict(list)
    for node in captured.module.graph.nodes:
        if node.op not in ("call_function", "call_module", "call_method"):
            continue
        operator = operator_name(node.target)
        count = find_formula(node.target)
        if count is None:
            unknown[operator, "no formula; add one with penjing.profiling.register_formula"].append(node.name)
            continue
        try:
            rows.append(NodeCost(node.name, operator, module_of(node, captured), count(Call(node, shapes))))
        except UnknownShapeError as problem:
            unknown[operator, f"the shape of {problem} depends on values"].append(node.name)
    return Costs(tuple(rows), tuple(Uncounted(name, tuple(nodes), why) for (name, why), nodes in unknown.items()))


def module_of(node: fx.Node, captured: Captured) -> str:
    """The module that made a call; in a graph that has lost its modules, the owner of the first parameter it reads."""
    if found := captured.node_module.get(node.name, ""):
        return found
    owners = (captured.node_module.get(n.name, "") for n in node.all_input_nodes if n.op == "get_attr")
    return next(owners, "")


def _grouped(pairs: Iterable[tuple[str, Cost]]) -> dict[str, Cost]:
    found: dict[str, Cost] = {}
    for key, value in pairs:
        found[key] = found.get(key, Cost()) + value
    return found


def _sum(costs: Iterable[Cost]) -> Cost:
    return sum(costs, Cost())
