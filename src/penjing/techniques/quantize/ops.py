"""QuantizeLinear, DequantizeLinear and GlobalAveragePool as operators of torch, with the semantics of ONNX.

The simulation in torch is the graph that is exported: each of these becomes one ONNX operator (see onnx.py), and gives
the same bits in torch as in ONNX Runtime.

A scale without dimensions holds for the whole tensor; a scale with one dimension holds along `axis`.
"""

import torch
from torch import Tensor


def _along(values: Tensor, ndim: int, axis: int) -> Tensor:
    """Shape per-axis values [n] so that they broadcast along one axis; a scalar stays."""
    if values.ndim == 0:
        return values
    shape = [1] * ndim
    shape[axis] = -1
    return values.view(shape)


@torch.library.custom_op("penjing::quantize_linear", mutates_args=())
def quantize_linear(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    """Quantise, y = saturate(round(x / scale) + zero_point), with ties to even; the type is the zero point's.

    >>> quantize_linear(torch.tensor([0.5, 1.5, 999.0]), torch.tensor(1.0), torch.tensor(0, dtype=torch.uint8), 0)
    tensor([  0,   2, 255], dtype=torch.uint8)
    """
    limits = torch.iinfo(zero_point.dtype)
    y = torch.round(x / _along(scale, x.ndim, axis)) + _along(zero_point, x.ndim, axis)
    return y.clamp_(limits.min, limits.max).to(zero_point.dtype)


@torch.library.custom_op("penjing::dequantize_linear", mutates_args=())
def dequantize_linear(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    """Give back real numbers, y = (x - zero_point) * scale.

    >>> dequantize_linear(torch.tensor([3, 5]), torch.tensor(0.5), torch.tensor(3), 0)
    tensor([0., 1.])
    """
    return (x.int() - _along(zero_point, x.ndim, axis).int()).to(scale.dtype) * _along(scale, x.ndim, axis)


@torch.library.custom_op("penjing::global_average_pool", mutates_args=())
def global_average_pool(x: Tensor) -> Tensor:
    """Average over all positions, [N, C, *spatial] -> [N, C, 1, ...].

    >>> global_average_pool(torch.ones(2, 3, 4, 4)).shape
    torch.Size([2, 3, 1, 1])
    """
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


@quantize_linear.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    return torch.empty_like(x, dtype=zero_point.dtype)


@dequantize_linear.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    return torch.empty_like(x, dtype=scale.dtype)


@global_average_pool.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:2], *[1] * (x.ndim - 2)))
