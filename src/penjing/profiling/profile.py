"""A model's static figures: parameters, MACs, bytes and memory, in total and layer by layer."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from penjing.profiling.cost import Costs, Uncounted, cost, module_of
from penjing.profiling.formulas import Cost
from penjing.profiling.memory import peak_memory
from penjing.structure import Captured, capture
from penjing.structure.rules import Shape, is_shape
from penjing.workload import ExampleInputs, read_model


@dataclass(frozen=True, slots=True)
class Layer:
    """One module with what is its own; submodules have their own rows, so that columns add up.

    size_bytes: of its parameters and buffers. output_shape: of the last tensor that it makes, None for none.
    share: its part of the model's MACs, from 0 to 1.
    """

    name: str
    type: str
    params: int
    macs: int
    elementwise: int
    size_bytes: int
    output_shape: Shape | None
    share: float


@dataclass(frozen=True)
class Profile:
    """Static figures of one forward pass on the example inputs; nothing is timed.

    params: tied ones count once. macs: multiply-accumulates. elementwise: all other operations, one per element.
    size_bytes: of parameters and buffers. peak_activation_bytes: see `peak_memory`; a lower bound for a runtime.
    uncounted: the calls that macs and elementwise leave out.
    """

    model: str
    inputs: str
    params: int
    macs: int
    elementwise: int
    size_bytes: int
    peak_activation_bytes: int
    layers: tuple[Layer, ...]
    uncounted: tuple[Uncounted, ...]

    def to_data(self) -> dict[str, Any]:
        """Give plain values for JSON."""
        return asdict(self)

    def table(self) -> str:
        """Write the layers that have parameters or MACs, the totals, and what is not counted, as aligned text."""
        head = ("layer", "type", "output", "params", "MACs", "share", "bytes")
        rows = [
            (
                layer.name or "(model)",
                layer.type,
                "" if layer.output_shape is None else "x".join(map(str, layer.output_shape)),
                f"{layer.params:,}",
                f"{layer.macs:,}",
                f"{layer.share:.1%}",
                f"{layer.size_bytes:,}",
            )
            for layer in self.layers
            if layer.params or layer.macs
        ]
        total = ("total", self.model, "", f"{self.params:,}", f"{self.macs:,}", "", f"{self.size_bytes:,}")
        lines = _aligned([head, *rows, total], right=3)
        lines.append(f"on {self.inputs}: peak activation memory {self.peak_activation_bytes:,} bytes (a lower bound)")
        lines.append(f"elementwise operations, not in the MACs: {self.elementwise:,}")
        for row in self.uncounted:
            lines.append(f"not counted: {row.operator}, {row.count} times ({', '.join(row.nodes)}): {row.why}")
        return "\n".join(lines)


def profile(model: nn.Module | str | Path, example_inputs: Any) -> Profile:
    """Count a model's parameters, MACs, bytes and peak activation memory on example inputs.

    The model is captured in eval mode, never run on the weights, and left as it was. `example_inputs` is anything that
    `ExampleInputs.of` reads; MACs and memory are those of its batch size.

    Raises CaptureError for a model that torch.export cannot capture.

    >>> import torch
    >>> found = profile(nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(1, 8))
    >>> found.params, found.macs, found.size_bytes, found.peak_activation_bytes
    (46, 40, 184, 64)
    >>> [(layer.name, layer.type, layer.macs) for layer in found.layers]
    [('0', 'Linear', 32), ('1', 'ReLU', 0), ('2', 'Linear', 8)]
    """
    model, example = read_model(model), ExampleInputs.of(example_inputs)
    return profile_captured(model, capture(model, example), example)


def profile_captured(model: nn.Module, captured: Captured, example: ExampleInputs) -> Profile:
    """Profile a model that is captured already; the graph's shapes are found anew if the example has another batch."""
    same = captured.example.batch_size == example.batch_size
    shapes = captured.shapes if same else captured.shapes_at(example)
    costs = cost(captured, shapes)
    params = _owned(model.named_parameters())
    stored = _owned(_state(model))
    total = costs.total
    return Profile(
        model=type(model).__name__,
        inputs=str(example),
        params=sum(tensor.numel() for tensors in params.values() for tensor in tensors),
        macs=total.macs,
        elementwise=total.elementwise,
        size_bytes=sum(tensor.nbytes for tensors in stored.values() for tensor in tensors),
        peak_activation_bytes=peak_memory(captured, shapes).size_bytes,
        layers=_layers(model, captured, costs, _output_shapes(captured, shapes), params, stored),
        uncounted=costs.uncounted,
    )


def _layers(
    model: nn.Module,
    captured: Captured,
    costs: Costs,
    outputs: dict[str, Shape],
    params: dict[str, list[Tensor]],
    stored: dict[str, list[Tensor]],
) -> tuple[Layer, ...]:
    """Rows in the order in which the modules are defined; calls of no known module come last."""
    own, total = costs.by_module(), max(costs.macs, 1)
    types = {name: type(module).__name__ for name, module in model.named_modules()}
    return tuple(
        Layer(
            name=name,
            type=types.get(name, ""),
            params=sum(tensor.numel() for tensor in params.get(name, [])),
            macs=own.get(name, Cost()).macs,
            elementwise=own.get(name, Cost()).elementwise,
            size_bytes=sum(tensor.nbytes for tensor in stored.get(name, [])),
            output_shape=outputs.get(name),
            share=own.get(name, Cost()).macs / total,
        )
        for name in [*types, *(name for name in own if name not in types)]
        if name in own or name in stored
    )


def _output_shapes(captured: Captured, shapes: Any) -> dict[str, Shape]:
    """Shape of the last tensor that each module makes."""
    found: dict[str, Shape] = {}
    for node in captured.module.graph.nodes:
        if node.op == "call_function" and is_shape(shapes.get(node.name)):
            found[module_of(node, captured)] = shapes[node.name]
    return found


def _state(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers that are stored with the model; tied ones once, under their first name."""
    seen: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor):
            seen.setdefault(id(tensor), (name, tensor))
    return list(seen.values())


def _owned(named: Any) -> dict[str, list[Tensor]]:
    """Tensors by the module that owns them."""
    found: dict[str, list[Tensor]] = {}
    for name, tensor in named:
        found.setdefault(name.rpartition(".")[0], []).append(tensor)
    return found


def _aligned(rows: Sequence[Sequence[str]], right: int) -> list[str]:
    """Pad columns to one width; those from number `right` on are numbers."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i >= right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
