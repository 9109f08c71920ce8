"""Operators that the ONNX exporter of torch lacks, written with those that it has."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

Translation = Callable[..., Any]


def translations(exported: torch.export.ExportedProgram) -> dict[Callable[..., Any], Translation]:
    """Table for torch.onnx.export(..., custom_translation_table=): what torch lacks, and what a program has of others.

    >>> list(translations(torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))))
    [<OpOverload(op='aten._cdist_forward', overload='default')>]
    """
    found: dict[Callable[..., Any], Translation] = {torch.ops.aten._cdist_forward.default: distances}
    for node in exported.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.name in _TABLE:
            found[node.target] = _TABLE[node.target._schema.name]
    return found


def grouped_product(x: Any, weight: Any, offs: Any) -> Any:
    """Rows of x [n, k] up to offs[0] times weight[0] [k, m], the next up to offs[1] times weight[1], ...; then zeros.

    The experts of a mixture: one product for each, of as many rows as it gets.
    """
    op = _operators()
    first = op.Constant(value_ints=[0])
    last = op.Constant(value_ints=[torch.iinfo(torch.int64).max])
    start, parts = first, []
    for i in range(int(weight.shape[0])):
        place, after = op.Constant(value_ints=[i]), op.Constant(value_ints=[i + 1])
        end = op.Cast(op.Slice(offs, place, after, first), to=7)
        matrix = op.Squeeze(op.Slice(weight, place, after, first), first)
        parts.append(op.MatMul(op.Slice(x, start, end, first), matrix))
        start = end
    rest = op.MatMul(op.Slice(x, start, last, first), matrix)
    return op.Concat(*parts, op.Sub(rest, rest), axis=0)


def distances(x: Any, y: Any, p: float, compute_mode: int | None = None) -> Any:
    """Distances of each row of x [..., n, k] from each of y [..., m, k] in the p-norm: [..., n, m], p > 0."""
    op = _operators()
    behind, before = op.Constant(value_ints=[-2]), op.Constant(value_ints=[-3])
    size = op.Abs(op.Sub(op.Unsqueeze(x, behind), op.Unsqueeze(y, before)))
    last = op.Constant(value_ints=[-1])
    if p == 2:
        return op.ReduceL2(size, last, keepdims=0)
    if p == 1:
        return op.ReduceL1(size, last, keepdims=0)
    if p == float("inf"):
        return op.ReduceMax(size, last, keepdims=0)
    power = op.CastLike(op.Constant(value_float=p), size)
    root = op.CastLike(op.Constant(value_float=1 / p), size)
    return op.Pow(op.ReduceSum(op.Pow(size, power), last, keepdims=0), root)


def frozen_node(inputs: Any, model: str) -> Any:
    """A node of an imported file that torch does not compute, as it was."""
    from penjing.onnx_import.exporting import translate_node

    return translate_node(inputs, model)


def _operators() -> Any:
    from onnxscript import opset20

    return opset20


_TABLE: Mapping[str, Translation] = {
    "transformers::grouped_mm_fallback": grouped_product,
    "aten::_grouped_mm": grouped_product,
    "penjing_onnx::node": frozen_node,
}
