"""Which layers of a program are to run on integers, and which of them a runtime does run so."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from penjing.runtimes.kernels import Kernel
from penjing.runtimes.where import layer

aten = torch.ops.aten

PRODUCTS = frozenset(
    {aten.linear.default, aten.conv1d.default, aten.conv2d.default, aten.conv3d.default}
    | {aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding, aten.matmul.default}
    | {aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input}
)
_BROKEN = "the runtime broke the pattern up: it computes on what DequantizeLinear gives"
_STORED = re.compile(r"weight_quantized(_\d+)?$")


@dataclass(frozen=True)
class LayerKernel:
    """What a layer runs with. Two calls of a module are two of them.

    wanted: "int8" where the model stores its input and its weight in integers, "weights" where it stores the weight
    alone, else "float". runs: "int8", "float", or "unknown" where the runtime names no kernel for it. why: the reason
    where it does not run in int8.
    """

    layer: str
    operator: str
    wanted: str
    kernel: str
    runs: str
    why: str = ""

    @property
    def broken(self) -> bool:
        """Whether the runtime computes in float what the model stores in integers on all sides."""
        return self.wanted == "int8" and self.runs == "float"


def layer_kernels(module: fx.GraphModule, kernels: Sequence[Kernel] | None) -> Iterator[LayerKernel]:
    """Give a row for each layer with weights, and for each other operator that has integers on all sides.

    module: the program as a plain module. kernels: what the runtime runs the program with; None if it is unknown.
    """
    for node in module.graph.nodes:
        if node.target in PRODUCTS and (weight := _weight(node)) is not None:
            name = _module_of(weight) or layer(node)
            yield _row(node, name, _wanted(node), _find(node, weight, kernels))
        elif _is_between_integers(node) and (found := _find(node, None, kernels)) is not None:
            yield _row(node, layer_behind(module, node)[0], "int8", found)


def _row(node: fx.Node, name: str, wanted: str, found: Kernel | None) -> LayerKernel:
    operator = _operator(node)
    if found is None:
        why = "no kernel of the runtime is known by its name"
        return LayerKernel(name, operator, wanted, "", "unknown", why)
    if found.integer:
        return LayerKernel(name, operator, wanted, found.kind, "int8")
    why = {"int8": _BROKEN, "weights": "only its weights are stored in integers"}.get(wanted, "it is float in the model")
    return LayerKernel(name, operator, wanted, found.kind, "float", why)


def _wanted(node: fx.Node) -> str:
    if not _is_integer(node.args[1]):
        return "float"
    return "int8" if _is_integer(node.args[0]) else "weights"


def _find(node: fx.Node, weight: str | None, kernels: Sequence[Kernel] | None) -> Kernel | None:
    """The kernel that reads the weight, an integer one first, or else took in the operator of this name."""
    if kernels is None:
        return None
    operators = {node.name, f"node_{node.name}"}
    by_name = [kernel for kernel in kernels if operators & set(kernel.sources)]
    by_weight = [kernel for kernel in kernels if weight is not None and _reads(kernel, weight)]
    return next((kernel for kernel in by_weight + by_name if kernel.integer), next(iter(by_name), None))


def _reads(kernel: Kernel, weight: str) -> bool:
    """Whether a kernel takes in a constant, which has a longer name where the program was captured once more."""
    return any(source == weight or source.endswith(f".{weight}") for source in kernel.sources)


def schema_of(node: Any) -> str:
    """Name the operator that a node calls, "aten::relu"; "" for all else."""
    return str(getattr(getattr(getattr(node, "target", None), "_schema", None), "name", ""))


def constant_of(node: Any) -> str | None:
    """Name the parameter or buffer that a node reads; None if it computes."""
    return str(node.target) if isinstance(node, fx.Node) and node.op == "get_attr" else None


def layer_behind(module: nn.Module, node: fx.Node) -> tuple[str, str]:
    """Name the nearest layer with weights from which a value comes, and the operators that made the value of it.

    ("conv1", "") for what a layer gives, rectified or not; ("conv1", "add, relu") for a sum with that; ("", "input x").
    """
    operators: list[str] = []
    at, made = node, False
    while True:
        if at.op == "call_function" and at.target in PRODUCTS and (weight := _weight(at)) is not None:
            return _module_of(weight) or layer(at), ", ".join(reversed(operators)) if made else ""
        if at.op == "placeholder":
            return "", ", ".join(reversed(operators)) or f"input {at.target}"
        if "ize_linear" in schema_of(at):
            made = made or bool(operators)
        elif not made and at.op == "call_function":
            operators.append(_operator(at))
        sources = [source for source in at.all_input_nodes if not _is_constant(source)]
        if not sources:
            return layer(node), ", ".join(reversed(operators)) or node.name
        at = max(sources)


def _weight(node: fx.Node) -> str | None:
    """Name the constant that the weight of a product is, or is computed from by one operator of quantisation."""
    weight = node.args[1]
    while isinstance(weight, fx.Node) and weight.op == "call_function" and weight.all_input_nodes:
        if not schema_of(weight).startswith("penjing::"):
            return None
        weight = weight.args[0]
    return constant_of(weight)


def _module_of(weight: str) -> str:
    """Name the module of a weight: "blocks.0" for "model.blocks.0.weight_quantized" and for "model.blocks.0.weight"."""
    path = _STORED.sub("weight", weight).removeprefix("model.")
    return path.rpartition(".")[0] if path.endswith("weight") else path


def _is_integer(node: Any) -> bool:
    return schema_of(node) == "penjing::dequantize_linear"


def _is_constant(node: fx.Node) -> bool:
    """Whether a node reads a constant, as it is or de-quantised."""
    return node.op == "get_attr" or (_is_integer(node) and constant_of(node.args[0]) is not None)


def _is_between_integers(node: fx.Node) -> bool:
    """Whether a light operator reads stored values alone and what it gives is stored, after a rectifier at most."""
    from penjing.techniques.quantize.plan import LIGHT

    if node.target not in LIGHT:
        return False
    values = [source for source in node.all_input_nodes if isinstance(source.meta.get("val"), Tensor)]
    after = next(iter(node.users), None) if len(node.users) == 1 else None
    if after is not None and _is_rectifier(after):
        after = next(iter(after.users), None) if len(after.users) == 1 else None
    return bool(values) and all(map(_is_integer, values)) and schema_of(after) == "penjing::quantize_linear"


def _is_rectifier(node: fx.Node) -> bool:
    return _operator(node) in ("relu", "relu6", "hardtanh", "clamp")


def _operator(node: fx.Node) -> str:
    return schema_of(node).rpartition("::")[2] or str(node.target)
