"""How the operators of ops.py are written in ONNX: each is one standard operator."""

from collections.abc import Callable
from typing import Any

import torch

from penjing.techniques.quantize import ops  # noqa: F401 - registers the operators


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Table for torch.onnx.export(..., custom_translation_table=translations()), opset 13 and later.

    >>> sorted(operator.name() for operator in translations())
    ['penjing::dequantize_linear', 'penjing::global_average_pool', 'penjing::quantize_linear']
    """
    from onnxscript import opset20 as op

    def quantize_linear(x: Any, scale: Any, zero_point: Any, axis: int) -> Any:
        return op.QuantizeLinear(x, scale, zero_point, axis=axis)

    def dequantize_linear(x: Any, scale: Any, zero_point: Any, axis: int) -> Any:
        return op.DequantizeLinear(x, scale, zero_point, axis=axis)

    def global_average_pool(x: Any) -> Any:
        return op.GlobalAveragePool(x)

    return {
        torch.ops.penjing.quantize_linear.default: quantize_linear,
        torch.ops.penjing.dequantize_linear.default: dequantize_linear,
        torch.ops.penjing.global_average_pool.default: global_average_pool,
    }
