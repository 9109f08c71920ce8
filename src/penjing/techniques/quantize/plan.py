"""What runs in int8 and which tensors are stored in int8: a pure reading of the graph, before any number is looked at.

ONNX Runtime fuses DequantizeLinear -> operator -> QuantizeLinear into one integer kernel when every input and the
output of the operator is stored in eight bits. Hence four kinds of operator:

- layers (convolution, linear) are what int8 is for: their inputs are stored;
- light operators (add, concat, average, ...) join in only where an int8 operator reads them and all they read comes
  from int8 operators, so that no tensor is rounded for their sake alone;
- moves (reshape, max pool, ...) pass stored values on unchanged, with the range of their input;
- a rectifier after an operator costs nothing: a range that starts at zero cuts off at zero.

All else stays in float and reads what DequantizeLinear gives.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import fx

from penjing.errors import RecipeError
from penjing.techniques.quantize.graph import (
    CONVOLUTIONS,
    GLOBAL_AVERAGE_POOL,
    LAYERS,
    aten,
    is_relu,
    layer_name,
    only_user,
)

LIGHT = frozenset(
    {aten.add.Tensor, aten.mul.Tensor, aten.cat.default, aten.avg_pool2d.default, GLOBAL_AVERAGE_POOL}
    | {aten.sigmoid.default, aten.leaky_relu.default}
)
MOVES = frozenset(
    {aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default, aten.flatten.using_ints}
    | {aten.view.default, aten.reshape.default, aten.permute.default, aten.transpose.int, aten.squeeze.default}
    | {aten.squeeze.dim, aten.squeeze.dims, aten.unsqueeze.default, aten.contiguous.default, aten.clone.default}
    | {aten.dropout.default, aten.slice.Tensor, aten.select.int}
)


@dataclass(frozen=True, slots=True)
class Kept:
    """The module of a layer that stays in float, why it does, and whether the recipe asked for that."""

    module: str
    reason: str
    asked: bool = False


@dataclass(frozen=True)
class Plan:
    """Names of nodes, by their part.

    layers, operators: what runs in int8. stored: a node whose output is kept in int8 -> the node whose range it has.
    kept: a layer that stays in float -> which module that is and why.
    """

    layers: frozenset[str]
    operators: frozenset[str]
    stored: Mapping[str, str]
    kept: Mapping[str, Kept]


def choose_layers(module: fx.GraphModule, overrides: Mapping[str, str]) -> tuple[frozenset[str], dict[str, Kept]]:
    """Give the layers that run in int8, and those that stay in float with the reason.

    overrides: layer name or fnmatch pattern -> "float". Raises RecipeError for another format, and for a pattern that
    names no layer.
    """
    layers = [node for node in module.graph.nodes if node.target in LAYERS]
    owners = {node: layer_name(module, node) for node in layers}
    names = sorted(set(owners.values()))
    for pattern, number_format in overrides.items():
        if number_format != "float":
            raise RecipeError(f"Quantize: overrides[{pattern!r}]={number_format!r} is unknown; use 'float'")
        if not any(fnmatchcase(name, pattern) for name in names):
            raise RecipeError(f"Quantize: overrides[{pattern!r}] names no layer; the layers are {', '.join(names)}")
    kept: dict[str, Kept] = {}
    for node, name in owners.items():
        weight, x = node.args[1], node.args[0]
        if any(fnmatchcase(name, pattern) for pattern in overrides):
            kept[node.name] = Kept(name, "the recipe says so", asked=True)
        elif not (isinstance(weight, fx.Node) and weight.op == "get_attr"):
            kept[node.name] = Kept(name, "its weight is computed, not stored")
        elif not isinstance(x, fx.Node) or x.meta["val"].ndim < 2 or x.meta["val"].dtype != torch.float32:
            kept[node.name] = Kept(name, "its input has no batch of float32 values")
    return frozenset(node.name for node in layers if node.name not in kept), kept


def make_plan(graph: fx.Graph, layers: frozenset[str], kept: Mapping[str, Kept]) -> Plan:
    """Walk from the outputs to the inputs and note which tensors an int8 operator wants stored."""
    from_int8 = _from_int8(graph, layers)
    wanted: set[fx.Node] = set()
    operators: set[str] = set()
    for node in reversed(graph.nodes):
        if node.name in layers:
            wanted.add(node.args[0])
        elif node not in wanted:
            continue
        elif is_relu(node) and node.args[0] in from_int8:
            operators.add(node.name)
            wanted.add(node.args[0])
        elif node.target in LIGHT and node in from_int8:
            operators.add(node.name)
            wanted.update(node.all_input_nodes)
        elif node.target in MOVES:
            operators.add(node.name)
            wanted.add(node.args[0])

    stored: dict[str, str] = {}
    for node in graph.nodes:
        if node not in wanted and not (node.name in layers and node.target in CONVOLUTIONS):
            continue  # a linear gives float for free, a convolution does not
        after = only_user(node)
        if is_relu(after) and node.target not in MOVES and node.name in layers | operators:
            assert after is not None
            operators.add(after.name)
            stored[after.name] = after.name
        elif node.target in MOVES:
            stored[node.name] = stored[node.args[0].name]
        else:
            stored[node.name] = node.name
    return Plan(layers, frozenset(operators), stored, dict(kept))


def _from_int8(graph: fx.Graph, layers: frozenset[str]) -> set[fx.Node]:
    """Nodes whose value comes from int8 layers and float32 inputs alone, by operators that can run in int8."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder":
            value = node.meta.get("val")
            possible = isinstance(value, torch.Tensor) and value.dtype == torch.float32
        elif node.target in MOVES or is_relu(node):
            possible = node.args[0] in found
        elif node.target in LIGHT:
            possible = _plain(node) and all(x in found for x in node.all_input_nodes)
        else:
            possible = node.name in layers
        if possible:
            found.add(node)
    return found


def _plain(node: fx.Node) -> bool:
    """Whether a light operator has the form that the integer kernel computes."""
    if node.target in (aten.add.Tensor, aten.mul.Tensor):
        return not node.kwargs and len(node.all_input_nodes) == 2
    return True
