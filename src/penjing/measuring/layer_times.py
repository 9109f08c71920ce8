"""How long each layer of a model takes where it will run, by the runtime's own clock.

A kernel's time goes to the layer whose weights it computes with, or to the nearest one before it, so that what stands
between two layers (a rectifier, a sum, a change of number format) counts for the layer that makes its input.
"""

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from penjing.errors import RuntimeUnavailable
from penjing.measuring.timing import undisturbed
from penjing.runtimes import find_runtime
from penjing.runtimes.base import Program
from penjing.runtimes.exporting import evaluating, take
from penjing.runtimes.fused import layer_behind, names_in_file
from penjing.runtimes.kernels import Kernel, TellsTimes
from penjing.runtimes.rewrite import plain_module
from penjing.runtimes.signature import to_numpy
from penjing.workload import ExampleInputs

CALLS = 30
_PROBED = (64, 56, 56)  # the shape of an image's features early in a network


@dataclass(frozen=True)
class LayerTimes:
    """Milliseconds of a call: of each layer by the name of its module, and of what stands before all layers."""

    layers: Mapping[str, float]
    other_ms: float

    @property
    def total_ms(self) -> float:
        """The whole call, as the sum of its kernels."""
        return sum(self.layers.values()) + self.other_ms


def layer_times(
    model: nn.Module,
    example_inputs: Any,
    runtime: str = "onnxruntime",
    *,
    options: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    calls: int = CALLS,
) -> LayerTimes:
    """Deploy a model into a temporary folder and time its layers at the example's batch, the median over calls.

    Raises RuntimeUnavailable for a runtime without a clock of its own, and what `export` raises.

    >>> found = layer_times(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(1, 8), calls=3)
    >>> sorted(found.layers)
    ['0', '2']
    """
    target = find_runtime(runtime)
    if not isinstance(target, TellsTimes):
        raise RuntimeUnavailable(f"{runtime} does not time its kernels; use one that does, such as 'onnxruntime'")
    settings = target.options(options or {})
    with evaluating(model), torch.no_grad(), tempfile.TemporaryDirectory() as temporary:
        taken = take(model, ExampleInputs.of(example_inputs), dynamic_shapes)
        folder = Path(temporary)
        target.export(taken.program, folder, settings)
        arrays = [to_numpy(leaf, "an input") for leaf in taken.leaves]
        with undisturbed(int(settings["threads"])):
            times = target.times(folder, settings, arrays, calls)
        return _by_layer(_nodes_in_file(taken.program), target.kernels(folder, settings), times)


def conversion_ms(runtime: str = "onnxruntime", options: Mapping[str, Any] | None = None) -> float:
    """Time a change of number format between two layers, int8 to float or back, in milliseconds for each value."""
    spent = layer_times(_ThereAndBack(), torch.zeros(1, *_PROBED), runtime, options=options).total_ms
    return spent / (2 * math.prod(_PROBED))


class _ThereAndBack(nn.Module):
    """Stores its input in int8 and reads it again."""

    def forward(self, x: Tensor) -> Tensor:
        scale, zero = torch.tensor(0.5), torch.tensor(128, dtype=torch.uint8)
        stored = torch.ops.penjing.quantize_linear(x, scale, zero, 0)
        return cast("Tensor", torch.ops.penjing.dequantize_linear(stored, scale, zero, 0))


def _nodes_in_file(program: Program) -> dict[str, fx.Node]:
    """The operators of a program by what a file may call them; one that makes an output may have the output's name."""
    module = plain_module(program.exported)
    names, (returned,) = names_in_file(program, module), module.graph.output_node().args
    outputs = dict(zip(program.outputs, returned, strict=True))  # type: ignore[arg-type]
    inside = {name: node for node in module.graph.nodes for name in names[node.name]}
    return {name: node for name, node in (inside | outputs).items() if node.op == "call_function"}


def _by_layer(nodes: Mapping[str, fx.Node], kernels: Sequence[Kernel], times: Mapping[str, float]) -> LayerTimes:
    layers: dict[str, float] = {}
    unclaimed = dict(times)
    for kernel in kernels:
        spent = sum(unclaimed.pop(operator, 0.0) for operator in kernel.operators)
        owner = next(_owners(kernel, nodes), "")
        layers[owner] = layers.get(owner, 0.0) + spent
    other = layers.pop("", 0.0) + sum(unclaimed.values())
    return LayerTimes(layers, other)


def _owners(kernel: Kernel, nodes: Mapping[str, fx.Node]) -> Iterator[str]:
    """The layers that a kernel's operators come from, the last operator's first."""
    found = (layer_behind(nodes[operator])[0] for operator in reversed(kernel.operators) if operator in nodes)
    yield from filter(None, found)
