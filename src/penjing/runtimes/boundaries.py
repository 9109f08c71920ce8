"""Where tensors are stored in integers, in the simulation and in a runtime, and by how many steps the two differ.

A boundary is one `penjing::quantize_linear` of the program. What it stores is an output more of the graph, and of nothing
that a runtime fuses: QuantizeLinear ends a fused kernel, so that its value exists in memory anyway.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from penjing.runtimes.base import Program
from penjing.runtimes.fused import constant_of, layer_behind, schema_of
from penjing.runtimes.rewrite import plain_module, recapture
from penjing.runtimes.signature import Array, to_numpy

SHARE = 0.999
"""Share of the elements of a boundary that must be within one step."""


@dataclass(frozen=True)
class Boundary:
    """How far the integers that are stored at one place differ, in steps of that place, |q_torch - q_runtime|.

    name: of the tensor in the quantised graph. layer: the nearest layer with weights before it, "" at an input.
    operator: what made the tensor of it, "" where that is the layer. within: share of the elements that differ by one step at most; equal: by none;
    largest: the most that one differs. All three hold end to end: each side goes on from its own values. alone and
    largest_alone are `within` and `largest` where torch goes on from what the runtime stored before, so that they are
    of this place by itself.
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

    @property
    def agrees(self) -> bool:
        """Whether 99.9 % of the elements are within one step, end to end."""
        return self.within >= SHARE

    @property
    def where(self) -> str:
        """The place in words: "conv1" for what a layer gives, "add, relu after conv1" for operators behind it."""
        return " after ".join(filter(None, (self.operator, self.layer)))


class Stored:
    """The boundaries of a program, and the simulation that shows what they store."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.module = plain_module(program.exported)
        self.nodes = [node for node in self.module.graph.nodes if schema_of(node) == "penjing::quantize_linear"]
        self._steps = [_Counts() for _ in self.nodes]
        self._alone = [_Counts() for _ in self.nodes]

    def shown(self) -> Program:
        """The same program with what each boundary stores as an output more, behind its own."""
        names = [node.name for node in self.nodes]
        exported = recapture(self.program, lambda module: _Showing(module, names))
        return replace(self.program, exported=exported, outputs=(*self.program.outputs, *names))

    def compare(self, leaves: Sequence[Tensor], actual: Sequence[Array] | None) -> list[Array]:
        """Count how far what a runtime stored on the same inputs differs from the simulation; give what that returns.

        actual: what each boundary stored; None where it is not known, and nothing is counted.
        """
        simulated = _Simulation(self.module)
        outputs = [to_numpy(output, "an output") for output in simulated.run(*leaves)]
        if actual is None:
            return outputs
        theirs = {
            node.name: _in_type_of(simulated.stored[node.name], array)
            for node, array in zip(self.nodes, actual, strict=True)
        }
        led = _Simulation(self.module, theirs)
        led.run(*leaves)
        for node, steps, alone in zip(self.nodes, self._steps, self._alone, strict=True):
            steps.add(simulated.stored[node.name], theirs[node.name])
            alone.add(led.stored[node.name], theirs[node.name])
        return outputs

    def boundaries(self) -> tuple[Boundary, ...]:
        """All boundaries, in the order of the graph, over all that was compared."""
        rows = zip(self.nodes, self._steps, self._alone, strict=True)
        return tuple(_boundary(self.module, node, steps, alone) for node, steps, alone in rows)


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


def _boundary(module: nn.Module, node: fx.Node, steps: _Counts, alone: _Counts) -> Boundary:
    layer, operator = layer_behind(module, node)
    scale = constant_of(node.args[1]) or node.name
    return Boundary(
        name=scale.rpartition("activations.")[2].removesuffix("_scale"),
        layer=layer,
        operator=operator,
        elements=steps.elements,
        within=steps.share(steps.within),
        equal=steps.share(steps.equal),
        largest=steps.largest,
        alone=alone.share(alone.within),
        largest_alone=alone.largest,
    )


def _in_type_of(want: Tensor, got: Array) -> Tensor:
    """Give a runtime's integers in the type of the simulation; some keep uint8 as int8, 128 below."""
    stored = torch.from_numpy(np.ascontiguousarray(got))
    if want.dtype == torch.uint8 and stored.dtype == torch.int8:
        stored = stored.int() + 128
    return stored.to(want.device, want.dtype)


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
    """Run a program and keep what each boundary stores; with `theirs`, go on from those values instead."""

    def __init__(self, module: fx.GraphModule, theirs: dict[str, Tensor] | None = None) -> None:
        super().__init__(module)
        self.stored: dict[str, Tensor] = {}
        self._theirs = theirs or {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if schema_of(n) == "penjing::quantize_linear":
            self.stored[n.name] = value
            return self._theirs.get(n.name, value)
        return value
