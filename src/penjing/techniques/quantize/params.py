"""Scales and zero points of asymmetric uint8 activations and of int32 biases.

A real number x is stored as q = round(x / scale) + zero_point. Source of the scheme: Jacob et al. 2018, "Quantization
and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference" (arXiv:1712.05877).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

UINT8_STEPS = 255
INT32_ROOM = 2**30
SMALLEST_SCALE = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class QuantParams:
    """scale: float32, [] for a whole tensor or [channels]; zero_point: same shape, its dtype is the storage type."""

    scale: Tensor
    zero_point: Tensor


def activation_params(low: float, high: float, bits: int = 8) -> QuantParams:
    """Spread [low, high], widened to hold zero, over the steps 0 to 2^bits - 1 of uint8.

    scale = (high - low) / (2^bits - 1), zero_point = round(-low / scale).

    >>> activation_params(-1.0, 1.55)
    QuantParams(scale=tensor(0.0100), zero_point=tensor(100, dtype=torch.uint8))
    """
    low, high = min(low, 0.0), max(high, 0.0)
    steps = 2**bits - 1
    scale = (high - low) / steps
    if scale < SMALLEST_SCALE:  # the tensor is zero wherever it was looked at
        scale, low = 1.0, 0.0
    zero_point = min(max(round(-low / scale), 0), steps)
    return QuantParams(torch.tensor(scale, dtype=torch.float32), torch.tensor(zero_point, dtype=torch.uint8))


def bias_params(activation_scale: Tensor, weight_scale: Tensor) -> QuantParams:
    """Scale of an int32 bias, that of the products it is added to: activation_scale * weight_scale."""
    scale = activation_scale * weight_scale
    return QuantParams(scale, torch.zeros_like(scale, dtype=torch.int32))


def quantize_channels(values: Tensor, params: QuantParams) -> Tensor:
    """Store values [out, ...] with one scale per output channel: saturate(round(v / scale)), in the type of `params`.

    Computed in float64, so that biases keep their 32 bits.
    """
    limits = torch.iinfo(params.zero_point.dtype)
    scale = params.scale.double().view(-1, *[1] * (values.ndim - 1))
    return torch.round(values.double() / scale).clamp_(limits.min, limits.max).to(params.zero_point.dtype)
