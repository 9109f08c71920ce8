"""Put QuantizeLinear and DequantizeLinear into the graph, where the plan wants them, with the numbers of the ranges."""

from collections.abc import Mapping

import torch
from torch import Tensor, fx

from penjing.recipe import Grid
from penjing.techniques.quantize.graph import copied, layer_name, put, tensor_of, without_unread
from penjing.techniques.quantize.pack import pack_weights
from penjing.techniques.quantize.params import (
    QuantParams,
    activation_params,
    bias_params,
    quantize_channels,
)
from penjing.techniques.quantize.plan import Plan
from penjing.techniques.quantize.products import operand_params
from penjing.techniques.quantize.weights import quantize, weight_params

CLIP = torch.ops.penjing.clip_steps.default
QUANTIZE = torch.ops.penjing.quantize_linear.default
DEQUANTIZE = torch.ops.penjing.dequantize_linear.default
WHOLE, OUTPUT_CHANNEL = 0, 0  # an axis: of no effect for a whole tensor; the first of a weight or bias


def insert(module: fx.GraphModule, plan: Plan, ranges: Mapping[str, tuple[float, float]]) -> fx.GraphModule:
    """Give a new graph module in which the plan's tensors are stored in int8; the given one stays as it is.

    ranges: node name -> (low, high) of its output, for every node whose range the plan uses.
    """
    quantized = copied(module)
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    bits = {name: plan.bits.get(name, 8) for name in sorted(set(plan.stored.values()))}
    params = {name: _on(device, activation_params(*ranges[name], bits[name])) for name in bits}
    operands = {name: _on(device, operand_params(*ranges[name])) for name in sorted(plan.operands)}
    integer = plan.layers | plan.operators
    pack_weights(quantized, plan.formats.packed, plan.layers)
    nodes = {node.name: node for node in quantized.graph.nodes}
    owners = {node.name: layer_name(module, node) for node in module.graph.nodes if node.name in plan.layers}
    for name in sorted(plan.layers):
        layer = nodes[name]
        _quantize_weights(
            quantized,
            layer,
            owners[name],
            params[plan.stored[layer.args[0].name]].scale,
            plan.formats.static[name].weight,
        )
    readers = {name: _params_nodes(quantized, nodes[name], values) for name, values in params.items()}
    for name in sorted(plan.formats.products):
        _store_operands(quantized, nodes[name], operands)
    for name, owner in plan.stored.items():
        _store(quantized, nodes[name], readers[owner], bits[owner], name in integer, integer)
    return without_unread(quantized)


def _on(device: torch.device, params: QuantParams) -> QuantParams:
    return QuantParams(params.scale.to(device), params.zero_point.to(device))


def _quantize_weights(module: fx.GraphModule, layer: fx.Node, owner: str, activation_scale: Tensor, grid: Grid) -> None:
    weight_node, bias_node = layer.args[1], layer.args[2] if len(layer.args) > 2 else None
    assert isinstance(weight_node, fx.Node)
    weight = tensor_of(module, weight_node).detach()
    bias = tensor_of(module, bias_node).detach() if isinstance(bias_node, fx.Node) else None
    path = owner if "." in str(weight_node.target) else ""
    params = weight_params(weight, bias, activation_scale, grid)
    stored = quantize(weight.flatten(1), params, grid).reshape(weight.shape)
    whole = len(params.scale) == 1
    weights = QuantParams(*(each.reshape([] if whole else [-1]) for each in (params.scale, params.zero_point)))
    kind = "quantized" if grid.bits == 8 else f"int{grid.bits}"
    operands = [_constant(module, layer, f"{path}.weight", kind, stored, weights)]
    if bias is not None:
        biases = bias_params(activation_scale, params.scale.flatten().expand(len(weight)).contiguous())
        operands.append(_constant(module, layer, f"{path}.bias", "quantized", quantize_channels(bias, biases), biases))
    layer.args = (layer.args[0], *operands, *layer.args[1 + len(operands) :])


def _constant(
    module: fx.GraphModule, reader: fx.Node, path: str, kind: str, stored: Tensor, params: QuantParams
) -> fx.Node:
    """Read a stored constant through DequantizeLinear."""
    path = path.lstrip(".")
    with module.graph.inserting_before(reader):
        values = put(module, f"{path}_{kind}", stored)
        scale = put(module, f"{path}_scale", params.scale)
        zero_point = put(module, f"{path}_zero_point", params.zero_point)
        return module.graph.call_function(DEQUANTIZE, (values, scale, zero_point, OUTPUT_CHANNEL))


def _params_nodes(module: fx.GraphModule, node: fx.Node, params: QuantParams) -> tuple[fx.Node, fx.Node]:
    """Read scale and zero point of an activation, just after the node whose range they hold."""
    while node.op == "placeholder" and node.next.op == "placeholder":
        node = node.next
    with module.graph.inserting_before(node.next):
        scale = put(module, f"activations.{node.name}_scale", params.scale)
        return scale, put(module, f"activations.{node.name}_zero_point", params.zero_point)


def _store(
    module: fx.GraphModule,
    node: fx.Node,
    params: tuple[fx.Node, fx.Node],
    bits: int,
    made_by_int8: bool,
    integer: frozenset[str],
) -> None:
    """Round the output of a node to int8, to fewer steps of it where it has fewer bits.

    Int8 operators read the rounded value. So does everything else if an int8 operator made it, for then there is no
    other; what a float operator made is read as it was by float operators.
    """
    after = max((node, *params)).next
    with module.graph.inserting_before(after):
        inside = node if bits == 8 else module.graph.call_function(CLIP, (node, *params, bits))
        stored = module.graph.call_function(QUANTIZE, (inside, *params, WHOLE))
        value = module.graph.call_function(DEQUANTIZE, (stored, *params, WHOLE))
    value.meta["val"] = node.meta["val"]
    own = (inside, stored)
    node.replace_all_uses_with(value, lambda user: user not in own and (made_by_int8 or user.name in integer))


def _store_operands(module: fx.GraphModule, product: fx.Node, params: Mapping[str, QuantParams]) -> None:
    """Round what a product of two activations reads, for it alone."""
    for operand in product.all_input_nodes:
        name = f"activations.{operand.name}_for_{product.name}"
        with module.graph.inserting_before(product):
            scale = put(module, f"{name}_scale", params[operand.name].scale)
            zero_point = put(module, f"{name}_zero_point", params[operand.name].zero_point)
            stored = module.graph.call_function(QUANTIZE, (operand, scale, zero_point, WHOLE))
            value = module.graph.call_function(DEQUANTIZE, (stored, scale, zero_point, WHOLE))
        product.replace_input_with(operand, value)
