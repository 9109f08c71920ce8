"""Products of two activations, as those of attention: which of them can run in int8, and attention written as them.

Their operands are stored in eight bits each for itself, around zero: int8, or uint8 from zero up where no value is
negative, as behind a softmax. OpenVINO has integer kernels of two activations for operands without zero points alone,
ONNX Runtime for any. As a linear does, a product gives float for free.
"""

from typing import Any

import torch
from torch import Tensor, fx

from penjing.structure.rules import bind
from penjing.techniques.quantize.graph import aten, varying
from penjing.techniques.quantize.params import SMALLEST_SCALE, QuantParams, activation_params

PRODUCTS = frozenset({aten.matmul.default, aten.bmm.default, aten.mm.default})
ATTENTION = aten.scaled_dot_product_attention.default
_LARGEST = 127


def activation_products(graph: fx.Graph) -> frozenset[str]:
    """Names of the products whose operands are both float32 matrices that depend on an input."""
    inputs = frozenset(varying(graph))
    return frozenset(
        node.name
        for node in graph.nodes
        if node.target in PRODUCTS and all(x in inputs and _is_matrix(x) for x in node.args)
    )


def _is_matrix(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dtype == torch.float32 and value.ndim >= 2


def operand_params(low: float, high: float) -> QuantParams:
    """Spread what lies around zero over int8, |x| / 127, and what is never negative over uint8.

    >>> operand_params(-1.27, 0.5), operand_params(0.0, 2.55)
    (QuantParams(scale=tensor(0.0100), zero_point=tensor(0, dtype=torch.int8)), \
QuantParams(scale=tensor(0.0100), zero_point=tensor(0, dtype=torch.uint8)))
    """
    if low >= 0:
        return activation_params(low, high)
    scale = max(-low, high) / _LARGEST
    scale = scale if scale >= SMALLEST_SCALE else 1.0
    return QuantParams(torch.tensor(scale, dtype=torch.float32), torch.tensor(0, dtype=torch.int8))


def open_attention(module: fx.GraphModule) -> None:
    """Write attention in place as its products, softmax(q k^T scale + mask) v, and the operators between them.

    Attention whose queries share keys (enable_gqa) stays one operator.
    """
    for node in list(module.graph.nodes):
        if node.target is ATTENTION and not bind(node)["enable_gqa"]:
            with module.graph.inserting_before(node):
                opened = _opened(module.graph, **bind(node))
            opened.meta = dict(node.meta)
            node.replace_all_uses_with(opened)
            module.graph.erase_node(node)
    module.recompile()


def _opened(
    graph: fx.Graph,
    query: fx.Node,
    key: fx.Node,
    value: fx.Node,
    attn_mask: fx.Node | None,
    is_causal: bool,
    scale: float | None,
    **_: Any,
) -> fx.Node:
    """The products of one attention; it is evaluated, so that nothing is dropped out."""
    scale = int(query.meta["val"].shape[-1]) ** -0.5 if scale is None else scale
    turned = _call(graph, aten.transpose.int, key, -2, -1)
    scores = _call(graph, aten.mul.Tensor, _call(graph, aten.matmul.default, query, turned), scale)
    if is_causal:
        square = _call(graph, aten.ones_like.default, scores)
        attn_mask = _call(graph, aten.to.dtype, _call(graph, aten.tril.default, square), torch.bool)
    if attn_mask is not None and attn_mask.meta["val"].dtype == torch.bool:
        scores = _call(graph, aten.where.ScalarOther, attn_mask, scores, float("-inf"))
    elif attn_mask is not None:
        scores = _call(graph, aten.add.Tensor, scores, attn_mask)
    return _call(graph, aten.matmul.default, _call(graph, aten.softmax.int, scores, -1), value)


def _call(graph: fx.Graph, target: Any, *args: Any) -> fx.Node:
    """Call an operator, with what it gives at capture."""
    node = graph.call_function(target, args)
    node.meta["val"] = target(*fx.node.map_arg(args, lambda each: each.meta["val"]))
    return node
