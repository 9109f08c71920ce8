"""Where a deployed file leaves the model: the first operator whose values differ."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from penjing.errors import PenjingError
from penjing.runtimes.agreement import disagreement, reference
from penjing.runtimes.base import Program, Runtime
from penjing.runtimes.capture import Flat
from penjing.runtimes.rewrite import plain_module, recapture
from penjing.runtimes.signature import to_numpy
from penjing.runtimes.where import layer


def first_difference(
    flat: Flat, program: Program, target: Runtime, options: Mapping[str, Any], inputs: Sequence[Tensor], numbers: str
) -> str:
    """Say where a file that does not compute what the model computes leaves it, in a sentence for an error message.

    The program is deployed once more with the value of every operator as an output, and these are compared in turn.
    """
    module = plain_module(program.exported)
    with torch.no_grad():
        expected, captured = reference(flat, inputs)[0], module(*inputs)
    for want, got in zip(expected, captured, strict=True):
        found, limit, _ = disagreement(want, to_numpy(got, "output"), numbers)
        if not found <= limit:
            return "the captured graph already differs: the model does something else while torch.export looks at it"
    shown = [node for node in module.graph.nodes if _is_value(node)]
    every = _Values(module, [node.name for node in shown])
    with tempfile.TemporaryDirectory() as folder:
        try:
            exported = recapture(program, lambda module: _Values(module, every.names))
            target.export(replace(program, exported=exported, outputs=tuple(every.names)), Path(folder), options)
            run = target.load(Path(folder), options)
            actual = run([to_numpy(leaf, spec.name) for leaf, spec in zip(inputs, program.inputs, strict=True)])
        except PenjingError as problem:
            return f"which operator it is cannot be told, for with all values shown {target.name} fails ({problem})"
    with torch.no_grad():
        values = every(*inputs)
    for node, want, got in zip(shown, values, actual, strict=True):
        found, limit, unit = disagreement(to_numpy(want, node.name), got, numbers)
        if not found <= limit:
            where = f" in layer {layer(node)!r}" if layer(node) else ""
            return f"the first operator that differs is {node.target}{where}, by {found:.2g} {unit}"
    return "each operator agrees when its value is shown, so that what differs is how operators are fused"


class _Values(nn.Module):
    """A module that returns the values of some of the nodes of another."""

    def __init__(self, inner: fx.GraphModule, names: Sequence[str]) -> None:
        super().__init__()
        self.inner = inner
        self.names = list(names)

    def forward(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        recorder = _Recorder(self.inner)
        recorder.run(*leaves)
        return tuple(recorder.values[name] for name in self.names)


class _Recorder(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.values[n.name] = value = super().run_node(n)
        return value


def _is_value(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return node.op == "call_function" and isinstance(value, Tensor) and value.is_floating_point()
