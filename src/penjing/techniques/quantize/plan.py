"""What runs in int8 and which tensors are stored in int8: a pure reading of the graph, before any number is looked at.

ONNX Runtime fuses DequantizeLinear -> operator -> QuantizeLinear into one integer kernel when every input and the
output of the operator is stored in eight bits. Hence the kinds of operator:

- layers (convolution, linear) are what int8 is for: their inputs are stored;
- light operators (add, concat, average, ...) join in only where an int8 operator reads them and all they read comes
  from int8 operators, so that no tensor is rounded for their sake alone;
- moves (reshape, max pool, ...) pass stored values on unchanged, with the range of their input;
- a rectifier after an operator costs nothing: a range that starts at zero cuts off at zero.

- products of two activations read operands that are stored for them alone, where the recipe asks for it.

All else stays in float and reads what DequantizeLinear gives.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType

import torch
from torch import fx

from penjing.errors import RecipeError
from penjing.recipe import Scheme
from penjing.recipe.schemes import FLOAT, scheme_of
from penjing.techniques.quantize.graph import (
    CONVOLUTIONS,
    GLOBAL_AVERAGE_POOL,
    LAYERS,
    aten,
    is_relu,
    layer_name,
    only_user,
)
from penjing.techniques.quantize.pads import adds_zeros
from penjing.techniques.quantize.products import activation_products
from penjing.techniques.quantize.slots import weight_slots

LIGHT = frozenset(
    {aten.add.Tensor, aten.mul.Tensor, aten.cat.default, aten.avg_pool2d.default, GLOBAL_AVERAGE_POOL}
    | {aten.sigmoid.default, aten.leaky_relu.default}
)
OPEN_SUMS = frozenset({"openvino"})
"""Runtimes that add to the result of a convolution within its kernel, before that is rounded."""
MOVES = frozenset(
    {aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default, aten.flatten.using_ints}
    | {aten.view.default, aten.reshape.default, aten.permute.default, aten.transpose.int, aten.squeeze.default}
    | {aten.squeeze.dim, aten.squeeze.dims, aten.unsqueeze.default, aten.contiguous.default, aten.clone.default}
    | {aten.dropout.default, aten.slice.Tensor, aten.select.int, aten.unflatten.int}
)


@dataclass(frozen=True, slots=True)
class Kept:
    """The module of a layer that stays in float, why it does, and whether the recipe asked for that."""

    module: str
    reason: str
    asked: bool = False


@dataclass(frozen=True)
class Formats:
    """What each weight is stored as.

    static: name of a layer that runs in int8 with ranges from calibration -> its scheme. packed: name of the node of a
    weight that is stored by itself -> its scheme. kept: layer that stays in float -> which module that is and why.
    products: names of products of two activations that run in int8. open_sums: whether a layer gives float to the
    sum that alone reads it.
    """

    static: Mapping[str, Scheme]
    packed: Mapping[str, Scheme]
    kept: Mapping[str, Kept]
    products: frozenset[str] = frozenset()
    open_sums: bool = False


@dataclass(frozen=True)
class Plan:
    """Names of nodes, by their part.

    layers, operators: what runs in int8. stored: a node whose output is kept in int8 -> the node whose range it has.
    bits: of the steps of a range, by the node that has it; all but those that are named have eight.
    operands: nodes that products of two activations read, which are stored once more for them.
    """

    formats: Formats
    operators: frozenset[str]
    stored: Mapping[str, str]
    bits: Mapping[str, int] = field(default_factory=dict)
    operands: frozenset[str] = frozenset()

    @property
    def layers(self) -> frozenset[str]:
        """Layers that run in int8 with ranges from calibration."""
        return frozenset(self.formats.static)

    @property
    def observed(self) -> frozenset[str]:
        """Nodes whose ranges are looked for."""
        return frozenset(self.stored.values()) | self.operands


def choose_formats(
    module: fx.GraphModule,
    scheme: Scheme | str,
    overrides: Mapping[str, Scheme | str] = MappingProxyType({}),
    *,
    products: bool = False,
    open_sums: bool = False,
) -> Formats:
    """Give each layer the scheme of the first pattern that matches its name, or else the scheme of all.

    A static scheme holds for convolutions and linears; of what else has weights it stores the weights alone.
    products: whether products of two activations run in int8 too. open_sums: as in Formats. Raises RecipeError for a
    pattern that names no layer.
    """
    slots = list(weight_slots(module))
    layers = [node for node in module.graph.nodes if node.target in LAYERS]
    owners = {node: layer_name(module, node) for node in layers}
    names = sorted({*owners.values(), *(slot.module for slot in slots)})
    for pattern in overrides:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise RecipeError(f"Quantize: overrides[{pattern!r}] names no layer; the layers are {', '.join(names)}")

    def wanted(name: str) -> Scheme | None:
        found = next((value for pattern, value in overrides.items() if fnmatchcase(name, pattern)), scheme)
        return None if found == FLOAT else scheme_of(found, "Quantize: scheme")

    static: dict[str, Scheme] = {}
    packed: dict[str, Scheme] = {}
    kept: dict[str, Kept] = {}
    for node, name in owners.items():
        chosen = wanted(name)
        if chosen is None:
            kept[node.name] = Kept(name, "the recipe says so", asked=True)
        elif (reason := _unfit(node, chosen)) is not None:
            kept[node.name] = Kept(name, reason)
        elif chosen.is_static:
            static[node.name] = chosen
    for slot in slots:
        chosen = wanted(slot.module)
        apart = slot.reader.name in kept or slot.reader.name in static
        if chosen is not None and not apart and not any(user.name in kept for user in slot.weight.users):
            packed.setdefault(slot.weight.name, chosen)
    return Formats(static, packed, kept, activation_products(module.graph) if products else frozenset(), open_sums)


def _unfit(layer: fx.Node, scheme: Scheme) -> str | None:
    """Why a layer cannot have a scheme; None if it can."""
    x, weight = layer.args[:2]
    if not (isinstance(weight, fx.Node) and weight.op == "get_attr"):
        return "its weight is computed, not stored"
    has_batch = isinstance(x, fx.Node) and x.meta["val"].ndim >= 2 and x.meta["val"].dtype == torch.float32
    if scheme.activation is not None and not has_batch:
        return "its input has no batch of float32 values"
    return None


def make_plan(graph: fx.Graph, formats: Formats) -> Plan:
    """Walk from the outputs to the inputs and note which tensors an int8 operator wants stored."""
    layers = frozenset(formats.static)
    from_int8 = _from_int8(graph, layers | formats.products)
    wanted: set[fx.Node] = set()
    operators = set(formats.products)
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
        elif moves(node):
            operators.add(node.name)
            wanted.add(node.args[0])

    nodes = {node.name: node for node in graph.nodes}
    stored: dict[str, str] = {}
    for node in graph.nodes:
        if node not in wanted and not (node.name in layers and node.target in CONVOLUTIONS):
            continue  # a linear gives float for free, a convolution does not
        after = only_user(node)
        if is_relu(after) and not moves(node) and node.name in layers | operators:
            assert after is not None
            operators.add(after.name)
            stored[after.name] = after.name
        elif moves(node):
            stored[node.name] = stored[node.args[0].name]
        else:
            stored[node.name] = node.name
    if formats.open_sums:
        stored = {name: owner for name, owner in stored.items() if not (name in layers and _is_summand(nodes[name]))}
    operands = (x.name for node in graph.nodes if node.name in formats.products for x in node.all_input_nodes)
    return Plan(formats, frozenset(operators), stored, _bits(graph, formats, stored), frozenset(operands))


def _bits(graph: fx.Graph, formats: Formats, stored: Mapping[str, str]) -> dict[str, int]:
    """Bits of the ranges that have fewer than eight: the most that a layer which reads the values asks for."""
    found: dict[str, int] = {}
    for node in graph.nodes:
        if (scheme := formats.static.get(node.name)) is not None and scheme.activation is not None:
            owner = stored[node.args[0].name]
            found[owner] = max(found.get(owner, 0), scheme.activation.bits)
    return {owner: bits for owner, bits in found.items() if bits < 8}


def _from_int8(graph: fx.Graph, integer: frozenset[str]) -> set[fx.Node]:
    """Nodes whose value comes from int8 layers, products and float32 inputs alone, by operators that can be int8."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder":
            value = node.meta.get("val")
            possible = isinstance(value, torch.Tensor) and value.dtype == torch.float32
        elif moves(node) or is_relu(node):
            possible = node.args[0] in found
        elif node.target in LIGHT:
            possible = _plain(node) and all(x in found for x in node.all_input_nodes)
        else:
            possible = node.name in integer
        if possible:
            found.add(node)
    return found


def _is_summand(node: fx.Node) -> bool:
    """Whether a sum alone reads a node."""
    after = only_user(node)
    return after is not None and after.target is aten.add.Tensor


def moves(node: fx.Node) -> bool:
    """Whether an operator passes stored values on: it moves them, or adds zeros, which every range holds."""
    return node.target in MOVES or adds_zeros(node)


def _plain(node: fx.Node) -> bool:
    """Whether a light operator has the form that the integer kernel computes."""
    if node.target in (aten.add.Tensor, aten.mul.Tensor):
        return not node.kwargs and len(node.all_input_nodes) == 2
    return True
