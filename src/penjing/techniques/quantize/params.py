"""Scales and zero points: asymmetric uint8 activations, symmetric int8 weights per output channel, int32 biases.

A real number x is stored as q = round(x / scale) + zero_point. Source of the scheme: Jacob et al. 2018, "Quantization
and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference" (arXiv:1712.05877), with the
per-channel weights of Krishnamoorthi 2018 (arXiv:1806.08342).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

UINT8_STEPS = 255
INT8_LIMIT = 127
INT32_ROOM = 2**30
SMALLEST_SCALE = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class QuantParams:
    """scale: float32, [] for a whole tensor or [channels]; zero_point: same shape, its dtype is the storage type."""

    scale: Tensor
    zero_point: Tensor


def activation_params(low: float, high: float) -> QuantParams:
    """Spread [low, high], widened to hold zero, over uint8.

    scale = (high - low) / 255, zero_point = round(-low / scale).

    >>> activation_params(-1.0, 1.55)
    QuantParams(scale=tensor(0.0100), zero_point=tensor(100, dtype=torch.uint8))
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / UINT8_STEPS
    if scale < SMALLEST_SCALE:  # the tensor is zero wherever it was looked at
        scale, low = 1.0, 0.0
    zero_point = min(max(round(-low / scale), 0), UINT8_STEPS)
    return QuantParams(torch.tensor(scale, dtype=torch.float32), torch.tensor(zero_point, dtype=torch.uint8))


def weight_params(weight: Tensor, bias: Tensor | None, activation_scale: Tensor) -> QuantParams:
    r"""Symmetric int8 per output channel, scale_o = max_i |W[o, i]| / 127.

    The bias of the channel is stored in int32 with scale activation_scale * scale_o; where that would overflow (a dead
    channel with a bias), the scale grows until it does not. weight: [out, ...]; bias: [out].

    >>> weight_params(torch.tensor([[1.27, 0.5], [0.0, -2.54]]), None, torch.tensor(1.0)).scale
    tensor([0.0100, 0.0200])
    """
    scale = weight.abs().flatten(1).amax(1).double() / INT8_LIMIT
    if bias is not None:
        scale = torch.maximum(scale, bias.abs().double() / (activation_scale.double() * INT32_ROOM))
    scale = torch.where(scale < SMALLEST_SCALE, 1.0, scale).float()
    return QuantParams(scale, torch.zeros_like(scale, dtype=torch.int8))


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
