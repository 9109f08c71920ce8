"""How the operators of ops.py are written in ONNX, the same numbers: standard operators, and one of ONNX Runtime."""

from collections.abc import Callable
from typing import Any

import torch

from penjing.techniques.quantize import ops  # noqa: F401 - registers the operators
from penjing.techniques.quantize.onnx_lstm import dynamic_lstm

FLOAT = 1  # ONNX's number for float32


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Table for torch.onnx.export(..., custom_translation_table=translations()), opset 13 and later.

    >>> len(translations())
    7
    """
    from onnxscript import opset20 as op

    def quantize_linear(x: Any, scale: Any, zero_point: Any, axis: int) -> Any:
        return op.QuantizeLinear(x, scale, zero_point, axis=axis)

    def clip_steps(x: Any, scale: Any, zero_point: Any, bits: int) -> Any:
        zero: Any = op.Cast(zero_point, to=FLOAT)
        most: Any = op.Constant(value_float=float(2**bits - 1))
        return op.Clip(x, op.Mul(op.Neg(zero), scale), op.Mul(op.Sub(most, zero), scale))

    def dequantize_linear(x: Any, scale: Any, zero_point: Any, axis: int) -> Any:
        return op.DequantizeLinear(x, scale, zero_point, axis=axis)

    def global_average_pool(x: Any) -> Any:
        return op.GlobalAveragePool(x)

    def unpack(x: Any, scale: Any, zero_point: Any, shape: Any) -> Any:
        """A product of constants, which every runtime computes once, when it loads the file."""
        values: Any = op.Cast(x, to=FLOAT)
        if zero_point is not None:
            values = op.Sub(values, op.Cast(zero_point, to=FLOAT))
        sizes: Any = op.Constant(value_ints=[int(n) for n in shape])
        return op.Reshape(op.Mul(values, scale), sizes)

    def dynamic_linear(x: Any, weight: Any, scale: Any, bias: Any) -> Any:
        q, step, zero = op.DynamicQuantizeLinear(x)
        products = op.Mul(op.Cast(op.MatMulInteger(q, weight, zero), to=FLOAT), op.Mul(step, scale))
        return products if bias is None else op.Add(products, bias)

    return {
        torch.ops.penjing.dynamic_lstm.default: dynamic_lstm,
        torch.ops.penjing.unpack.default: unpack,
        torch.ops.penjing.dynamic_linear.default: dynamic_linear,
        torch.ops.penjing.quantize_linear.default: quantize_linear,
        torch.ops.penjing.clip_steps.default: clip_steps,
        torch.ops.penjing.dequantize_linear.default: dequantize_linear,
        torch.ops.penjing.global_average_pool.default: global_average_pool,
    }
