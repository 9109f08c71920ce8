"""Which layers of a program are to run on integers, and which of them a runtime does run so."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from penjing.runtimes.base import Program
from penjing.runtimes.kernels import Kernel
from penjing.runtimes.where import layer

aten = torch.ops.aten

PRODUCTS = frozenset(
    {aten.linear.default, aten.conv1d.default, aten.conv2d.default, aten.conv3d.default}
    | {aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding, aten.matmul.default}
    | {aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input}
)
NO_NAMES: Mapping[str, str] = {}
_BROKEN = "the runtime broke the pattern up: it computes on what DequantizeLinear gives"
_RECTIFIERS = ("relu", "relu6", "hardtanh", "clamp", "clip_steps")
_SHOWN = 3
_PREPARES = ("DequantizeLinear", "Transpose", "Reshape", "Cast", "Convert")
_DYNAMIC = frozenset({"penjing::dynamic_linear", "penjing::dynamic_lstm"})


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


Names = Mapping[str, frozenset[str]]
"""Name of a node of a program -> the names under which a file may hold it."""


def names_in_file(program: Program, module: fx.GraphModule) -> Names:
    """Say what boundaries, and the operators whose values they store, are called in a file.

    Exporters decompose a program first, which numbers some operators anew and no boundary.
    """
    names = {node.name: {node.name} for node in module.graph.nodes}
    theirs = quantizers(program.exported.run_decompositions().graph)
    for mine, other in zip(quantizers(module.graph), theirs, strict=True):
        names[mine.name] |= {other.name, *(reader.name for reader in other.users)}
        names[_source(mine).name].add(_source(other).name)
    return {name: frozenset(found | {f"node_{each}" for each in found}) for name, found in names.items()}


def layer_kernels(module: fx.GraphModule, kernels: Sequence[Kernel] | None, names: Names) -> Iterator[LayerKernel]:
    """Give a row for each layer with weights, and for each other operator that has integers on all sides.

    module: the program as a plain module. kernels: what the runtime runs the program with; None if it is unknown.
    """
    for node in module.graph.nodes:
        if _is_product(node) and (weight := _weight(node)) is not None:
            found = _reader(weight, kernels or ()) or _holder(names[node.name], kernels or ())
            yield _row(node, _module_of(weight) or layer(node), _wanted(node), found, told=kernels is not None)
        elif _is_integer_product(node):
            found = _holder(names[node.name], kernels or ())
            yield _row(node, layer_behind(node.args[0])[0], "int8", found, told=kernels is not None)
        elif _is_between_integers(node) and (found := _holder(names[node.name], kernels or ())) is not None:
            yield _row(node, layer_behind(node)[0], "int8", found, told=True)


def fused_away(module: fx.GraphModule, kernels: Sequence[Kernel] | None, names: Names) -> list[fx.Node]:
    """Give the boundaries whose integers a runtime never stores, for their kernel goes on to a later boundary."""
    boundaries = quantizers(module.graph)
    away: set[fx.Node] = set()
    for kernel in kernels or ():
        at = {operator: i for i, operator in enumerate(kernel.operators)}
        ends = {node: max((at[name] for name in names[node.name] & at.keys()), default=-1) for node in boundaries}
        away |= {node for node, end in ends.items() if -1 < end < max(ends.values())}
    return [node for node in boundaries if node in away]


def bound_to(away: Sequence[fx.Node]) -> list[fx.Node]:
    """Give the boundaries that cannot be shown without a change of kernels: those fused away, and the other summands.

    A kernel that adds to its own result writes over the other summand, which nobody else may read then.
    """
    operators = (user for node in away for value in node.users for user in value.users)
    read = (value for operator in operators for value in operator.all_input_nodes if _is_integer(value))
    stored = (each for value in read for each in value.all_input_nodes)
    return [*dict.fromkeys((*away, *(each for each in stored if schema_of(each) == "penjing::quantize_linear")))]


def _row(node: fx.Node, name: str, wanted: str, found: Kernel | None, *, told: bool) -> LayerKernel:
    """Put what is known of a layer together; told: whether the runtime says which kernels it runs."""
    operator = _operator(node)
    if found is None and not (told and wanted != "int8"):  # weights in float may be laid out under another name
        why = "no kernel of the runtime is known by its name" if told else "the runtime does not say"
        return LayerKernel(name, operator, wanted, "", "unknown", why)
    if found is not None and found.integer:
        return LayerKernel(name, operator, wanted, found.kind, "int8")
    why = {"int8": _BROKEN, "weights": "only its weights are stored in integers"}.get(
        wanted, "it is float in the model"
    )
    return LayerKernel(name, operator, wanted, found.kind if found else "", "float", why)


def _is_product(node: fx.Node) -> bool:
    """Whether a node computes with a weight."""
    return node.target in PRODUCTS or schema_of(node) in _DYNAMIC


def _wanted(node: fx.Node) -> str:
    if schema_of(node) in _DYNAMIC or (_is_integer(node.args[0]) and _is_integer(node.args[1])):
        return "int8"
    return "weights" if schema_of(node.args[1]).startswith("penjing::") else "float"


def _reader(weight: str, kernels: Sequence[Kernel]) -> Kernel | None:
    """The kernel that computes with a constant, as it is or after it was de-quantised and laid out.

    A constant has a longer name where the program was captured once more.
    """
    known: set[str] = {weight}
    for kernel in kernels:
        if not any(name in known or name.endswith(f".{weight}") for name in kernel.reads):
            continue
        if not kernel.kind.startswith(_PREPARES):
            return kernel
        known.update(kernel.writes)
    return None


def _holder(named: frozenset[str], kernels: Sequence[Kernel]) -> Kernel | None:
    """The kernel that took in an operator under one of its names."""
    return next((kernel for kernel in kernels if named & set(kernel.operators)), None)


def quantizers(graph: fx.Graph) -> list[fx.Node]:
    """The boundaries of a program, in order."""
    return [node for node in graph.nodes if schema_of(node) == "penjing::quantize_linear"]


def only_moves(node: fx.Node) -> bool:
    """Whether a boundary stores again what another one stored, elsewhere or in another shape."""
    from penjing.techniques.quantize.plan import moves

    return moves(_source(node))


def _source(node: fx.Node) -> fx.Node:
    """The operator whose value a boundary stores, before a rectifier."""
    source = node.args[0]
    while isinstance(source, fx.Node) and _is_rectifier(source):
        source = source.args[0]
    assert isinstance(source, fx.Node)
    return source


def schema_of(node: Any) -> str:
    """Name the operator that a node calls, "aten::relu"; "" for all else."""
    return str(getattr(getattr(getattr(node, "target", None), "_schema", None), "name", ""))


def constant_of(node: Any) -> str | None:
    """Name the parameter or buffer that a node reads; None if it computes."""
    return str(node.target) if isinstance(node, fx.Node) and node.op == "get_attr" else None


def layer_behind(node: fx.Node, inputs: Mapping[str, str] = NO_NAMES) -> tuple[str, str]:
    """Name the nearest layer with weights from which a value comes, and the last operators that made the value of it.

    inputs: what the user calls the inputs of the graph.
    ("conv1", "") for what a layer gives, rectified or not; ("conv1", "add, relu") for a sum with that; ("", "input x").
    """
    operators: list[str] = []
    at, made = node, False
    while True:
        if at.op == "placeholder":
            return "", _chain(operators) or f"input {inputs.get(at.name, at.name)}"
        if _is_product(at) and (weight := _weight(at)) is not None:
            own = not made and all(operator in _RECTIFIERS for operator in operators)
            return _module_of(weight) or layer(at), "" if own else _chain(operators)
        if "ize_linear" in schema_of(at):
            made = made or bool(operators)
        elif not made and at.op == "call_function":
            operators.append(_operator(at))
        sources = [source for source in _tensors(at) if not _is_constant(source)]
        if not sources:
            return "", _chain(operators) or node.name
        at = max(sources)


def _chain(operators: Sequence[str]) -> str:
    """The last few operators, in the order of the graph."""
    return ", ".join(reversed(operators[:_SHOWN]))


def _weight(node: fx.Node) -> str | None:
    """Name the constant that the weight of a product is, or is computed from by one operator of quantisation."""
    weight = node.args[1]
    if isinstance(weight, list | tuple):  # of an LSTM, layer by layer
        weight = weight[0]
    while isinstance(weight, fx.Node) and weight.op == "call_function" and weight.all_input_nodes:
        if not schema_of(weight).startswith("penjing::"):
            return None
        weight = weight.args[0]
    return constant_of(weight)


def _module_of(weight: str) -> str:
    """Name the module of a weight: "a.0" for "model.a.0.weight_quantized", "lstm" for "model.lstm.weight_ih_l0"."""
    from penjing.techniques.quantize.layers import weight_behind

    path = weight_behind(weight).removeprefix("model.")
    module, _, leaf = path.rpartition(".")
    return module if leaf.endswith("weight") or leaf.startswith("weight_") else path


def _is_integer(node: Any) -> bool:
    return schema_of(node) == "penjing::dequantize_linear"


def _is_constant(node: fx.Node) -> bool:
    """Whether a node reads a constant, as it is or de-quantised."""
    return node.op == "get_attr" or (_is_integer(node) and constant_of(node.args[0]) is not None)


def _is_integer_product(node: fx.Node) -> bool:
    """Whether a node is a product of two activations that are both stored."""
    from penjing.techniques.quantize.products import PRODUCTS as OF_ACTIVATIONS

    return node.target in OF_ACTIVATIONS and all(map(_is_integer, node.args))


def _is_between_integers(node: fx.Node) -> bool:
    """Whether a light operator reads stored values alone and what it gives is stored, after a rectifier at most."""
    from penjing.techniques.quantize.plan import LIGHT

    if node.target not in LIGHT:
        return False
    values = _tensors(node)
    after = next(iter(node.users), None) if len(node.users) == 1 else None
    if after is not None and _is_rectifier(after):
        after = next(iter(after.users), None) if len(after.users) == 1 else None
    return bool(values) and all(map(_is_integer, values)) and schema_of(after) == "penjing::quantize_linear"


def _tensors(node: fx.Node) -> list[fx.Node]:
    """The tensors that a node reads, without the sizes."""
    return [source for source in node.all_input_nodes if isinstance(source.meta.get("val"), Tensor)]


def _is_rectifier(node: fx.Node) -> bool:
    return _operator(node) in _RECTIFIERS


def _operator(node: fx.Node) -> str:
    return schema_of(node).rpartition("::")[2] or str(node.target)
