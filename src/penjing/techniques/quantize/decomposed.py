"""The operators of ops.py as those of PT2E (`quantized_decomposed`), which the backends of torch look for.

Scales and zero points become numbers in the calls, and biases, which these backends quantise by themselves, float32.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

_SHIFT = 128
_PRODUCTS = {
    torch.ops.aten.conv1d.default,
    torch.ops.aten.conv2d.default,
    torch.ops.aten.conv2d.padding,
    torch.ops.aten.linear.default,
}
_RECTIFIERS = {torch.ops.aten.relu.default, torch.ops.aten.hardtanh.default}


def decompose(module: fx.GraphModule, *, xnnpack: bool) -> fx.GraphModule:
    """Replace the operators of the `penjing` namespace in place, and give the module back.

    xnnpack: write what XNNPACK has kernels for. uint8 activations become int8, q - 128 with zero point z - 128 for q
    with z, the same real numbers; and a product whose output is not quantised keeps its weight as float32.
    """
    import torch.ao.quantization.fx._decomposed  # noqa: F401 - registers the operators

    if xnnpack:
        _unpack_weights_of_open_products(module)
    for node in list(module.graph.nodes):
        replacement = _TABLE.get(_schema(node))
        if replacement is None:
            continue
        with module.graph.inserting_before(node):
            new = replacement(module, node, xnnpack)
        node.replace_all_uses_with(new)
        module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _quantize(module: fx.GraphModule, node: fx.Node, xnnpack: bool) -> fx.Node:
    return _call(module, node, "quantize", xnnpack)


def _dequantize(module: fx.GraphModule, node: fx.Node, xnnpack: bool) -> fx.Node:
    stored = _value(module, node.args[0])
    if stored is not None and stored.dtype == torch.int32:  # a bias
        return _real(module, node)
    return _call(module, node, "dequantize", xnnpack)


def _pool(module: fx.GraphModule, node: fx.Node, xnnpack: bool) -> fx.Node:
    return module.graph.call_function(torch.ops.aten.adaptive_avg_pool2d.default, (node.args[0], [1, 1]))


def _real(module: fx.GraphModule, node: fx.Node) -> fx.Node:
    """The value of a dequantised constant, as a constant."""
    stored, scale, zero_point = (_value(module, argument) for argument in node.args[:3])
    real = torch.ops.penjing.dequantize_linear(stored, scale, zero_point, node.args[3])
    return _constant(module, f"{node.name}_value", real)


def _unpack_weights_of_open_products(module: fx.GraphModule) -> None:
    for product in module.graph.nodes:
        if product.target not in _PRODUCTS or _is_quantized(product):
            continue
        for node in product.all_input_nodes:
            stored = _value(module, node.args[0]) if _schema(node) == "penjing::dequantize_linear" else None
            if stored is not None and stored.dtype == torch.int8:
                with module.graph.inserting_before(node):
                    product.replace_input_with(node, _real(module, node))


def _is_quantized(node: fx.Node) -> bool:
    """Whether all that is made of a value, by a rectifier at most, is quantised."""
    return bool(node.users) and all(
        _schema(user) == "penjing::quantize_linear" or (user.target in _RECTIFIERS and _is_quantized(user))
        for user in node.users
    )


def _schema(node: fx.Node) -> str:
    return getattr(getattr(node.target, "_schema", None), "name", "")


def _call(module: fx.GraphModule, node: fx.Node, verb: str, xnnpack: bool) -> fx.Node:
    """Write one (de)quantisation with its scale as numbers (per tensor) or as constants (per channel)."""
    source, scale_node, zero_node, axis = node.args
    scale, zero_point = _value(module, scale_node), _value(module, zero_node)
    assert scale is not None
    assert zero_point is not None
    shift = _SHIFT if xnnpack and zero_point.dtype == torch.uint8 else 0
    dtype = torch.int8 if shift else zero_point.dtype
    limits = torch.iinfo(dtype)
    zeros = zero_point.to(torch.int64) - shift
    granularity = "tensor" if scale.ndim == 0 else "channel"
    operator = getattr(torch.ops.quantized_decomposed, f"{verb}_per_{granularity}").default
    if scale.ndim == 0:
        arguments: tuple[Any, ...] = (source, float(scale), int(zeros))
    else:
        arguments = (source, scale_node, _constant(module, f"{node.name}_zeros", zeros), axis)
    return module.graph.call_function(operator, (*arguments, limits.min, limits.max, dtype))


def _value(module: nn.Module, node: Any) -> Tensor | None:
    """The tensor that a node reads; None if it computes one."""
    if not (isinstance(node, fx.Node) and node.op == "get_attr"):
        return None
    *path, name = str(node.target).split(".")
    owner = module.get_submodule(".".join(path))
    value: Tensor = getattr(owner, name)
    return value


def _constant(module: fx.GraphModule, name: str, value: Tensor) -> fx.Node:
    module.register_buffer(name, value)
    return module.graph.get_attr(name)


def _clip(module: fx.GraphModule, node: fx.Node, xnnpack: bool) -> fx.Node:
    """Bounds as numbers."""
    x, scale_node, zero_node, bits = node.args
    scale, zero = _value(module, scale_node), _value(module, zero_node)
    assert scale is not None
    assert zero is not None
    bounds = (float((step - zero.to(scale.dtype)) * scale) for step in (0, 2 ** cast("int", bits) - 1))
    return module.graph.call_function(torch.ops.aten.clamp.default, (x, *bounds))


def _unpacked(module: fx.GraphModule, node: fx.Node, xnnpack: bool) -> fx.Node:
    """A weight of few bits as the float constant that it stands for: these backends have no operator for it."""
    stored, scale, zero_point = (_value(module, argument) for argument in node.args[:3])
    real = torch.ops.penjing.unpack(stored, scale, zero_point, node.args[3])
    return _constant(module, f"{node.name}_value", real)


_TABLE: dict[str, Callable[[fx.GraphModule, fx.Node, bool], fx.Node]] = {
    "penjing::quantize_linear": _quantize,
    "penjing::dequantize_linear": _dequantize,
    "penjing::clip_steps": _clip,
    "penjing::global_average_pool": _pool,
    "penjing::unpack": _unpacked,
}
