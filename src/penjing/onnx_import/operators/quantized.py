"""Integers that stand for floats: what a quantised file computes, in floats that can be trained.

q = clamp(round(x / scale) + zero, low, high)        x' = (q - zero) * scale
"""

from typing import Any

import torch
from torch import Tensor

from penjing.onnx_import.node import DTYPES, Node
from penjing.onnx_import.operators.table import operator

_RANGES = {dtype: (torch.iinfo(dtype).min, torch.iinfo(dtype).max) for dtype in (torch.int8, torch.uint8, torch.int16)}
_RANGES |= {torch.uint16: (0, 65535), torch.int32: (-(2**31), 2**31 - 1)}


def _laid_out(node: Node, value: Tensor, x: Tensor) -> Tensor:
    """A scale or zero point, one for all, one for each index along an axis, or one for each block there, beside x."""
    if value.numel() == 1:
        return value.reshape(())
    axis = node.get("axis", 1) % x.ndim
    if node.get("block_size", 0):
        return value.repeat_interleave(node.get("block_size"), axis).narrow(axis, 0, x.shape[axis])
    shape = [1] * x.ndim
    shape[axis] = -1
    return value.reshape(shape)


def _supported(node: Node) -> bool:
    to = node.get("output_dtype", 0)
    return not to or DTYPES.get(to) in _RANGES


@operator("QuantizeLinear", when=_supported)
def quantize(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """Floats as integers: to the nearest step, halves to the even one."""
    to = node.get("output_dtype", 0)
    dtype = zero.dtype if zero is not None else DTYPES[to] if to else torch.uint8
    low, high = _RANGES[dtype]
    q = torch.round(x / _laid_out(node, scale, x))
    if zero is not None:
        q = q + _laid_out(node, zero.to(x.dtype), x)
    return torch.clamp(q, low, high).to(torch.int32).to(dtype)


@operator("DequantizeLinear")
def dequantize(node: Node, q: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """Integers as the floats that they stand for."""
    x = q.to(scale.dtype)
    if zero is not None:
        x = x - _laid_out(node, zero.to(scale.dtype), x)
    return x * _laid_out(node, scale, x)


def fake_quantize(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """Floats on the steps of their integers; the gradient passes as if they were not rounded, inside the range."""
    dtype = torch.uint8 if zero is None else zero.dtype
    low, high = (float(bound) for bound in _RANGES[dtype])
    step = _laid_out(node, scale, x)
    shift: Any = 0.0 if zero is None else _laid_out(node, zero.to(x.dtype), x)
    inside = torch.clamp(x / step, low - shift, high - shift) if not isinstance(shift, Tensor) else None
    if inside is None:
        inside = torch.minimum(torch.maximum(x / step, low - shift), high - shift)
    if not torch.is_grad_enabled():
        return torch.round(inside) * step
    return (inside + (torch.round(inside) - inside).detach()) * step


@operator("DynamicQuantizeLinear")
def dynamic_quantize(node: Node, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Floats as unsigned bytes over their own range, with the scale and the zero point."""
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    scale = (high - low) / 255
    zero = torch.clamp(torch.round(-low / scale), 0, 255)
    q = torch.clamp(torch.round(x / scale) + zero, 0, 255)
    return q.to(torch.uint8), scale, zero.to(torch.uint8)


@operator("MatMulInteger")
def matmul_integer(node: Node, a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None) -> Any:
    """Product of integers less their zero points."""
    left, right = a.to(torch.int32), b.to(torch.int32)
    if a_zero is not None:
        left = left - (a_zero.to(torch.int32) if a_zero.numel() == 1 else a_zero.to(torch.int32).unsqueeze(-1))
    return torch.matmul(left, right if b_zero is None else right - b_zero.to(torch.int32))
