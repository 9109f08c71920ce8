"""Where tensors are stored in integers, in the simulation and in a runtime, and by how many steps the two differ.

A boundary is one `penjing::quantize_linear` of the program. What it stores becomes a further output of the graph, which
leaves most kernels as they are: QuantizeLinear ends a fused kernel, so that its value is in memory anyway.
"""

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from penjing.runtimes.base import Program
from penjing.runtimes.fused import constant_of, layer_behind, only_moves, quantizers, schema_of
from penjing.runtimes.rewrite import recapture
from penjing.runtimes.signature import Array, to_numpy

SHARE = 0.999
"""Share of the elements of a boundary that must be within one step."""
NOTHING: Mapping[str, Tensor] = {}


@dataclass(frozen=True)
class Boundary:
    """How far the integers that are stored at one place differ, in steps of that place, |q_torch - q_runtime|.

    name: of the tensor in the quantised graph. layer: the nearest layer with weights before it, "" at an input.
    operator: what made the tensor of it, "" where that is the layer. within: share of the elements that differ by one
    step at most; equal: by none; largest: the most that one differs. These three hold end to end: each side goes on
    from its own values. alone, largest_alone: `within` and `largest` where torch goes on from what the runtime stored
    before, so that they are of this place by itself; explained: `alone` where torch, too, leaves out the rounding that
    the runtime fused away, None where it fused none. floor: `within` of the simulation against itself in float64, end
    to end, which is what rounding in float32 leaves; None where nothing differed, and it was not looked at.
    moved: whether it stores again what another one stored, elsewhere or in another shape.
    """

    name: str
    layer: str
    operator: str
    elements: int
    within: float
    equal: float
    largest: int
    alone: float
    largest_alone: int
    explained: float | None = None
    floor: float | None = None
    moved: bool = False

    @property
    def agrees(self) -> bool:
        """Whether 99.9 % of the elements are within one step where both sides are given the same."""
        return self.alone >= SHARE

    @property
    def where(self) -> str:
        """The place in words: "conv1" for what a layer gives, "add, relu after conv1" for operators behind it."""
        return place(self.layer, self.operator)


def place(layer: str, operator: str) -> str:
    """Say where a boundary is, of its layer and its operators."""
    return " after ".join(filter(None, (operator, layer)))


class Stored:
    """The boundaries of a program, and the simulation that shows what they store.

    away: boundaries that the runtime fused away. hidden: boundaries that are not shown, those among them.
    """

    def __init__(
        self,
        program: Program,
        module: fx.GraphModule,
        away: Collection[fx.Node] = (),
        hidden: Collection[fx.Node] = (),
    ) -> None:
        self.program = program
        self.module = module
        self._away = frozenset(node.name for node in away)
        self.nodes = [node for node in quantizers(module.graph) if node not in hidden]
        inputs = (node.name for node in module.graph.nodes if node.op == "placeholder")
        self._inputs = dict(zip(inputs, (spec.name for spec in program.inputs), strict=True))
        self._steps, self._alone, self._explained, self._floor = (
            {node: _Counts() for node in self.nodes} for _ in range(4)
        )

    def shown(self) -> Program:
        """The same program with what each boundary stores as an output more, behind its own."""
        names = [node.name for node in self.nodes]
        exported = recapture(self.program, lambda module: _Showing(module, names))
        return replace(self.program, exported=exported, outputs=(*self.program.outputs, *names))

    def simulate(self, leaves: Sequence[Tensor]) -> list[Array]:
        """Give the outputs of the simulation."""
        return _arrays(_Simulation(self.module).run(*leaves))

    def compare(self, leaves: Sequence[Tensor], actual: Sequence[Array]) -> list[Array]:
        """Count how far what a runtime stored differs from the simulation on the same inputs.

        actual: what each boundary stored. Gives the outputs of the simulation that goes on from there.
        """
        simulated = _Simulation(self.module)
        simulated.run(*leaves)
        theirs = {
            node.name: _in_type_of(simulated.stored[node.name], array)
            for node, array in zip(self.nodes, actual, strict=True)
        }
        led = _Simulation(self.module, theirs)
        outputs = _arrays(led.run(*leaves))
        for node in self.nodes:
            self._steps[node].add(simulated.stored[node.name], theirs[node.name])
            self._alone[node].add(led.stored[node.name], theirs[node.name])
        if self._away:
            fused = _Simulation(self.module, theirs, self._away)
            fused.run(*leaves)
            for node in self.nodes:
                self._explained[node].add(fused.stored[node.name], theirs[node.name])
        return outputs

    def find_floor(self, leaves: Sequence[Tensor]) -> None:
        """Count how far the simulation differs from itself in float64 on these inputs.

        A graph that makes float32 tensors of its own may not run in float64; nothing is counted then.
        """
        single, double = _Simulation(self.module), _Simulation(copy.deepcopy(self.module).double())
        single.run(*leaves)
        try:
            double.run(*(leaf.double() if leaf.is_floating_point() else leaf for leaf in leaves))
        except RuntimeError:
            return
        for node in self.nodes:
            self._floor[node].add(single.stored[node.name], double.stored[node.name])

    def boundaries(self) -> tuple[Boundary, ...]:
        """All boundaries, in the order of the graph, over all that was compared."""
        return tuple(map(self._boundary, self.nodes))

    def where(self, node: fx.Node) -> str:
        """Say where a boundary is, which may be hidden."""
        return place(*layer_behind(node, self._inputs))

    def _boundary(self, node: fx.Node) -> Boundary:
        layer, operator = layer_behind(node, self._inputs)
        steps, alone = self._steps[node], self._alone[node]
        explained, floor = self._explained[node], self._floor[node]
        return Boundary(
            name=(constant_of(node.args[1]) or node.name).rpartition("activations.")[2].removesuffix("_scale"),
            layer=layer,
            operator=operator,
            elements=steps.elements,
            within=steps.share(steps.within),
            equal=steps.share(steps.equal),
            largest=steps.largest,
            alone=alone.share(alone.within),
            largest_alone=alone.largest,
            explained=explained.share(explained.within) if explained.elements else None,
            floor=floor.share(floor.within) if floor.elements else None,
            moved=only_moves(node),
        )


class _Counts:
    """Elements of one boundary, and how many of them differ by how much."""

    def __init__(self) -> None:
        self.elements = self.equal = self.within = self.largest = 0

    def add(self, want: Tensor, got: Tensor) -> None:
        steps = (want.int() - got.int()).abs()
        self.elements += steps.numel()
        self.equal += int((steps == 0).sum())
        self.within += int((steps <= 1).sum())
        self.largest = max(self.largest, int(steps.max()) if steps.numel() else 0)

    def share(self, count: int) -> float:
        return count / self.elements if self.elements else 1.0


def _in_type_of(want: Tensor, got: Array) -> Tensor:
    """Give a runtime's integers in the type of the simulation; some keep uint8 as int8, 128 below."""
    stored = torch.from_numpy(np.ascontiguousarray(got))
    if want.dtype == torch.uint8 and stored.dtype == torch.int8:
        stored = stored.int() + 128
    return stored.to(want.device, want.dtype)


def _arrays(outputs: Sequence[Tensor]) -> list[Array]:
    return [to_numpy(output, "an output") for output in outputs]


class _Showing(nn.Module):
    """A module that returns what some of the nodes of another give, after what that returns."""

    def __init__(self, inner: fx.GraphModule, names: Sequence[str]) -> None:
        super().__init__()
        self.inner = inner
        self.names = list(names)

    def forward(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        simulated = _Simulation(self.inner)
        outputs = simulated.run(*leaves)
        return (*outputs, *(simulated.stored[name] for name in self.names))


class _Simulation(fx.Interpreter):
    """Run a program and keep what each boundary stores.

    theirs: values of boundaries to go on from instead. away: boundaries at which values are cut off and not rounded.
    """

    def __init__(
        self, module: fx.GraphModule, theirs: Mapping[str, Tensor] = NOTHING, away: Collection[str] = ()
    ) -> None:
        super().__init__(module)
        self.stored: dict[str, Tensor] = {}
        self._theirs, self._away = theirs, away
        self._open: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if schema_of(n) == "penjing::quantize_linear":
            self.stored[n.name] = value
            if n.name in self._away:
                x, scale, zero_point, axis = self.fetch_args_kwargs_from_env(n)[0]
                low, high = _limits(scale, zero_point, axis)
                self._open[n.name] = x.clamp(low, high)
            return self._theirs.get(n.name, value)
        if schema_of(n) == "penjing::dequantize_linear" and isinstance(n.args[0], fx.Node):
            return self._open.get(n.args[0].name, value)
        return value


def _limits(scale: Tensor, zero_point: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """The least and the largest value that a boundary can store."""
    ends = torch.iinfo(zero_point.dtype)
    least, largest = (torch.full_like(zero_point, end) for end in (ends.min, ends.max))
    dequantize = torch.ops.penjing.dequantize_linear
    return dequantize(least, scale, zero_point, axis), dequantize(largest, scale, zero_point, axis)
