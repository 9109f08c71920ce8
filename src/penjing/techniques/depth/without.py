"""Run a captured graph as if some of its blocks were not there, and watch what passes."""

from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor, fx

from penjing.structure import Captured
from penjing.structure.blocks import Block


class Without(fx.Interpreter):
    """A graph in which some blocks give what they are given.

    watched: names of nodes whose values are kept in `values`. gates: for a block, a scalar that scales its branches,
    y = x + gate f(x).
    """

    def __init__(
        self,
        captured: Captured,
        dropped: Sequence[Block] = (),
        *,
        watched: Collection[str] = (),
        gates: Sequence[tuple[Block, Tensor]] = (),
    ) -> None:
        super().__init__(captured.module)
        self.values: dict[str, Tensor] = {}
        self._signature = captured.signature
        self._captured = captured
        self._gone = frozenset[str]().union(*(block.nodes for block in dropped))
        self._skip_of = {r.output: r.skip for block in dropped for r in block.residuals}
        self._gate_of = {r.output: (r.skip, gate) for block, gate in gates for r in block.residuals}
        self._kept = {*watched, *self._skip_of.values(), *(skip for skip, _ in self._gate_of.values())}

    def outputs(self, args: Sequence[Any], kwargs: Any) -> Any:
        """What the model returns for a call."""
        self.values.clear()
        flat = self.run(*self._captured.flatten(args, kwargs), enable_io_processing=False)
        return self._signature.unflatten(flat)

    def run_node(self, n: fx.Node) -> Any:
        if n.name in self._gone:
            return None
        skip_of = self._skip_of.get(n.name)
        # What follows may write into the value: it is a copy.
        result = super().run_node(n) if skip_of is None else self.values[skip_of].clone()
        if n.name in self._gate_of:
            skip, gate = self._gate_of[n.name]
            result = self.values[skip] + gate * (result - self.values[skip])
        if n.name in self._kept:
            self.values[n.name] = result
        return result
