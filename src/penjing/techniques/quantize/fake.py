r"""Rounding that trains: quantisers whose gradients pass the steps, one function for each paper.

All compute y = round(clamp(x / s, low - z, high - z)) s and differ in what the gradient does. Rounding itself passes
gradients unchanged (the straight-through estimator: Bengio, Leonard and Courville 2013, arXiv:1308.3432). A scale may
have a dimension of its own for each index of dimension 0, or broadcast against x.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from penjing.techniques.quantize.ops import along, dynamic_range

Fake = Callable[[Tensor, Tensor, Tensor, int, int], Tensor]
"""(x, scale, zero point, lowest step, highest step) -> x on the grid."""

_MOMENTUM = 0.99
_TANH_1 = math.tanh(1)


def fixed(x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
    """Clip and round on a grid that stays as it is; nothing comes back from beyond its ends.

    Linear weights and activations of WRPN (Mishra et al. 2018, arXiv:1709.01134, section 4), and of QAT in its plain
    form.
    """
    return _on_grid(x, scale.detach(), zero.detach(), low, high)


def lsq(x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
    r"""Learn the scale: dy/ds = round(x/s) - x/s inside the grid, low - z or high - z beyond its ends.

    LSQ (Esser et al. 2020, "Learned Step Size Quantization", arXiv:1902.08153, equations 1 to 3); the gradient of s is
    divided by sqrt(n high), n the number of values that share it (section 2.2).

    >>> x, s = torch.tensor([0.3, 9.0]), torch.tensor(0.5, requires_grad=True)
    >>> lsq(x, s, torch.tensor(0.0), -7, 7).detach(), torch.autograd.grad(lsq(x, s, torch.tensor(0.0), -7, 7).sum(), s)
    (tensor([0.5000, 3.5000]), (tensor(2.7969),))
    """
    return _on_grid(x, _calmed(scale, x, high), zero.detach(), low, high)


def lsq_plus(x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
    """Learn scale and zero point, which is rounded as it is used.

    LSQ+ (Bhalgat et al. 2020, "LSQ+: Improving low-bit quantization through learnable offsets", arXiv:2004.09576).
    """
    return _on_grid(x, _calmed(scale, x, high), _calmed(zero, x, high), low, high)


def pact(x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
    """Learn where to clip from above, alpha = (high - z) s: dy/dalpha = 1 where x >= alpha, else 0.

    PACT (Choi et al. 2018, "Parameterized Clipping Activation", arXiv:1805.06085, equation 3).
    """
    alpha = (high - zero.detach()) * scale
    beyond = (x.detach() >= alpha.detach()).to(alpha.dtype)
    return fixed(x, scale, zero, low, high) + beyond * (alpha - alpha.detach())


def dorefa(x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
    r"""Squash a weight before it is rounded, m tanh(x / m) / tanh(1), m what the grid reaches.

    DoReFa-Net (Zhou et al. 2016, arXiv:1606.06160, equation 9) with the layer's own reach in place of 1 and tanh(1) in
    place of the largest value, so that the weights of a trained network can be the start (`unsquashed`).
    """
    reach = _reach(x, scale, zero, low, high)
    return fixed(reach * torch.tanh(x / reach) / _TANH_1, scale, zero, low, high)


def unsquashed(x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
    """What `dorefa` squashes to x.

    >>> scale, zero = torch.tensor(0.5), torch.tensor(0.0)
    >>> dorefa(unsquashed(torch.tensor([-1.5, 3.5]), scale, zero, -7, 7), scale, zero, -7, 7)
    tensor([-1.5000,  3.5000])
    """
    reach = _reach(x, scale, zero, low, high)
    return reach * torch.atanh((x / reach * _TANH_1).clamp(-_TANH_1, _TANH_1))


def following(x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
    """Let the grid follow the smallest and largest value, by moving averages while gradients are computed.

    Jacob et al. 2018 (arXiv:1712.05877), section 3.1; range-linear training of Distiller.
    """
    if torch.is_grad_enabled():
        with torch.no_grad():
            bottom, top = (low - zero) * scale, (high - zero) * scale
            bottom = _MOMENTUM * bottom + (1 - _MOMENTUM) * x.amin().clamp_max(0)
            top = _MOMENTUM * top + (1 - _MOMENTUM) * x.amax().clamp_min(0)
            scale.copy_((top - bottom) / (high - low))
            zero.copy_(low - bottom / scale)
    return fixed(x, scale, zero, low, high)


def fake_bias(bias: Tensor, activation_scale: Tensor, weight_scale: Tensor) -> Tensor:
    """Round a bias as int32 with the scale of the products that it is added to; the scales learn nothing from it."""
    scale = (activation_scale.abs() * weight_scale.abs()).detach().double()
    rounded = torch.round(bias.detach().double() / scale).clamp(-(2.0**31), 2.0**31 - 1) * scale
    return bias + (rounded.to(bias.dtype) - bias).detach()


def fake_dynamic(x: Tensor) -> Tensor:
    """Round an input as `penjing::dynamic_linear` does, over the range of this very call."""
    step, zero = dynamic_range(x.detach())
    return fixed(x, step, zero, 0, 255)


@dataclass(frozen=True)
class Rule:
    """How weights and activations are rounded in training, and of which of them scales and zero points are learnt.

    start: gives the values that a weight rule rounds to a given weight, where they are not the weight itself.
    """

    weight: Fake
    activation: Fake
    start: Fake | None = None
    learns_weight_scale: bool = False
    learns_activation_scale: bool = False
    learns_zero: bool = False


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "lsq": Rule(lsq, lsq, learns_weight_scale=True, learns_activation_scale=True),
        "lsq+": Rule(lsq, lsq_plus, learns_weight_scale=True, learns_activation_scale=True, learns_zero=True),
        "pact": Rule(dorefa, pact, unsquashed, learns_activation_scale=True),
        "dorefa": Rule(dorefa, fixed, unsquashed),
        "wrpn": Rule(fixed, fixed),
        "ema": Rule(fixed, following),
    }
)
"""The ways to train a quantised model, by the names that `Quantize(training=)` takes."""


def _on_grid(x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
    rounded: Tensor = _OnGrid.apply(x.float(), _as(scale.abs(), x), _as(zero, x), low, high)  # type: ignore[no-untyped-call]
    return rounded


class _OnGrid(torch.autograd.Function):
    """y = q s, q = round(clamp(x / s, low - z, high - z)), with z rounded, and its straight-through gradients.

    Inside the grid dy/dx = 1, dy/ds = q - x / s, dy/dz = 0; beyond its ends 0, q and -s. One operator in place of ten
    keeps fewer tensors of the size of x.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
        bottom, top = low - torch.round(zero), high - torch.round(zero)
        ratio = x / scale
        steps = ratio.round().clamp_(bottom, top)
        ctx.save_for_backward(ratio, steps, scale, bottom, top)
        return steps * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        ratio, steps, scale, bottom, top = ctx.saved_tensors
        inside = (ratio >= bottom) & (ratio <= top)
        for_x = gradient * inside if ctx.needs_input_grad[0] else None
        for_scale = for_zero = None
        if ctx.needs_input_grad[1]:
            for_scale = (gradient * torch.where(inside, steps - ratio, steps)).sum_to_size(scale.shape)
        if ctx.needs_input_grad[2]:
            for_zero = (gradient * ~inside * -scale).sum_to_size(bottom.shape)
        return for_x, for_scale, for_zero, None, None


def _calmed(value: Tensor, x: Tensor, high: int) -> Tensor:
    """The same value, its gradient divided by sqrt(n high)."""
    shared = max(1, x.numel() // max(1, value.numel())) if value.ndim else max(1, x[0].numel())
    factor = 1 / math.sqrt(shared * high)
    return value * factor + (value * (1 - factor)).detach()


def _reach(x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
    zero = _as(zero, x).detach()
    return _as(scale.abs(), x).detach() * torch.maximum(high - zero, zero - low)


def _as(value: Tensor, x: Tensor) -> Tensor:
    """A scale of dimension 0 so that it broadcasts against x."""
    return along(value.float(), x.ndim, 0) if value.ndim == 1 else value.float()
