"""What the latency of a graph is made of: sums over its operators, each of which a runtime pays for at some rate.

Kernels work in blocks of channels: a convolution of 17 channels takes as long as one of 32 where the block is 16. Which
block a runtime has is not asked but measured: products are counted with their channels rounded up to each of BLOCKS,
and the fit (see latency_model) finds the counts that explain the times.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from penjing.structure.rules import Shape, Shapes

BLOCKS = (1, 4, 8, 16, 32)
NARROW = 16
"""Inputs of fewer channels than a block have kernels of their own: the first layer of most networks."""
FLOAT_BYTES = 4
aten = torch.ops.aten
_CONVOLUTIONS = {
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv2d.padding,
    aten.conv1d.padding,
    aten.conv3d.default,
    aten.convolution.default,
}
_PRODUCTS = {aten.linear.default, aten.matmul.default, aten.bmm.default, aten.mm.default, aten.addmm.default}
_ATTENTION = {aten.scaled_dot_product_attention.default}
_FREE = {"view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "dropout", "alias", "detach", "contiguous"}
_FREE |= {"to", "expand", "batch_norm", "_assert_tensor_metadata", "sym_size", "t", "identity", "feature_dropout"}
_REDUCING = {"softmax", "_softmax", "log_softmax", "layer_norm", "group_norm", "instance_norm", "rms_norm", "gelu"}


def features(graph: fx.Graph, shapes: Mapping[str, Shapes]) -> dict[str, float]:
    """Count what a runtime may pay for, from the output shapes of the nodes of a captured graph.

    Units: millions of multiply-accumulates, megabytes, calls. Batch norms count nothing: runtimes fold them.

    >>> from torch import nn, zeros
    >>> from penjing.structure import capture
    >>> captured = capture(nn.Linear(8, 3), zeros(2, 8))
    >>> found = features(captured.module.graph, captured.shapes)
    >>> found["product.macs/1"] * 1e6, found["product.macs/4"] * 1e6, found["product.calls"]
    (48.0, 64.0, 1.0)
    """
    counts: dict[str, float] = defaultdict(float)
    for node in graph.nodes:
        if node.op == "call_function":
            for name, value in _terms(node, shapes).items():
                counts[name] += value
    return dict(counts)


def _terms(node: fx.Node, shapes: Mapping[str, Shapes]) -> dict[str, float]:
    output = _first(shapes.get(node.name))
    arguments = [argument for argument in node.args if isinstance(argument, fx.Node)] or node.all_input_nodes
    inputs = [shape for argument in arguments if (shape := _first(shapes.get(argument.name))) is not None]
    if output is None or not inputs:
        return {}
    if node.target in _CONVOLUTIONS:
        return _convolution(node, output, inputs)
    if node.target in _PRODUCTS and len(inputs) > 1:
        return _product(output, inputs)
    if node.target in _ATTENTION and len(inputs) > 2:
        return _attention(output, inputs)
    name = getattr(getattr(node.target, "_schema", None), "name", "").rpartition("::")[2].rstrip("_")
    if name in _FREE or not name:
        return {}
    family = "reducing" if name in _REDUCING else "elementwise"
    read = sum(map(math.prod, inputs))
    if len(output) > 2:
        family += _alignment(output[1])
    return {f"{family}.mb": (read + math.prod(output)) * FLOAT_BYTES / 1e6, f"{family}.calls": 1.0}


def _convolution(node: fx.Node, output: Shape, inputs: list[Shape]) -> dict[str, float]:
    x, weight = inputs[:2]
    groups = int(_argument(node, 8 if node.target is aten.convolution.default else 6, "groups", 1))
    filters, per_group, *kernel = weight
    positions = output[0] * math.prod(output[2:])
    taps = math.prod(kernel)
    if groups > 1:
        family = "depthwise" if per_group == 1 else "grouped"
    else:
        family = "pointwise" if taps == 1 else "convolution"
    family += _alignment(x[1], filters)
    if groups == 1 and per_group < NARROW:
        family += " of few"
    macs = {f"{family}.macs/{b}": positions * taps * per_group * _up(filters, b) for b in BLOCKS}
    return {name: value / 1e6 for name, value in macs.items()} | {
        f"{family}.in_mb": math.prod(x) * FLOAT_BYTES / 1e6,
        f"{family}.out_mb": math.prod(output) * FLOAT_BYTES / 1e6,
        f"{family}.weight_mb": math.prod(weight) * FLOAT_BYTES / 1e6,
        f"{family}.calls": 1.0,
    }


def _alignment(*widths: int) -> str:
    """The largest of 4, 8 and 16 that divides all widths, as a suffix: kernels for blocks take no others."""
    shared = math.gcd(16, *widths)
    return f"@{shared}" if shared >= 4 else ""


def _product(output: Shape, inputs: list[Shape]) -> dict[str, float]:
    x, other = inputs[-2:] if len(inputs) == 3 and len(inputs[0]) == 1 else inputs[:2]
    inner, width = x[-1], output[-1]
    rows = math.prod(output[:-1])
    macs = {f"product.macs/{b}": rows * _up(inner, b if b == 1 else 4) * _up(width, b) / 1e6 for b in BLOCKS}
    return macs | {
        "product.in_mb": math.prod(x) * FLOAT_BYTES / 1e6,
        "product.out_mb": math.prod(output) * FLOAT_BYTES / 1e6,
        "product.weight_mb": math.prod(other) * FLOAT_BYTES / 1e6,
        "product.calls": 1.0,
    }


def _attention(output: Shape, inputs: list[Shape]) -> dict[str, float]:
    query, key, value = inputs[:3]
    scores = math.prod(query[:-1]) * key[-2]
    return {
        "attention.macs": scores * (query[-1] + value[-1]) / 1e6,
        "attention.scores_mb": scores * FLOAT_BYTES / 1e6,
        "attention.calls": 1.0,
    }


def _argument(node: fx.Node, place: int, name: str, default: Any) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def _up(count: int, block: int) -> int:
    return -(-count // block) * block


def _first(shapes: Shapes | None) -> Shape | None:
    """The shape of a tensor, or of the first of several; None for what is no tensor."""
    if not isinstance(shapes, tuple):
        return None
    if shapes and not isinstance(shapes[0], int):
        return _first(shapes[0]) if shapes[0] is not None else None
    return shapes  # type: ignore[return-value]
