"""Quantisation as operators of torch, with the semantics of ONNX.

The simulation in torch is the graph that is exported: each of these becomes one ONNX operator, or a few (see onnx.py),
and gives the same bits in torch as in ONNX Runtime.

A scale without dimensions holds for the whole tensor; a scale with one dimension holds along `axis`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def along(values: Tensor, ndim: int, axis: int) -> Tensor:
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
    y = torch.round(x / along(scale, x.ndim, axis)) + along(zero_point, x.ndim, axis)
    return y.clamp_(limits.min, limits.max).to(zero_point.dtype)


@torch.library.custom_op("penjing::clip_steps", mutates_args=())
def clip_steps(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """Clip to what the steps 0 to 2^bits - 1 hold, so that uint8 stores no other: to [-z s, (2^bits - 1 - z) s].

    >>> clip_steps(torch.tensor([-9.0, 0.5, 9.0]), torch.tensor(0.5), torch.tensor(2, dtype=torch.uint8), 4)
    tensor([-1.0000,  0.5000,  6.5000])
    """
    zero = zero_point.to(scale.dtype)
    return torch.clamp(x, (0 - zero) * scale, (2**bits - 1 - zero) * scale)


@torch.library.custom_op("penjing::dequantize_linear", mutates_args=())
def dequantize_linear(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    """Give back real numbers, y = (x - zero_point) * scale.

    >>> dequantize_linear(torch.tensor([3, 5]), torch.tensor(0.5), torch.tensor(3), 0)
    tensor([0., 1.])
    """
    return (x.int() - along(zero_point, x.ndim, axis).int()).to(scale.dtype) * along(scale, x.ndim, axis)


@torch.library.custom_op("penjing::global_average_pool", mutates_args=())
def global_average_pool(x: Tensor) -> Tensor:
    """Average over all positions, [N, C, *spatial] -> [N, C, 1, ...].

    >>> global_average_pool(torch.ones(2, 3, 4, 4)).shape
    torch.Size([2, 3, 1, 1])
    """
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


@torch.library.custom_op("penjing::unpack", mutates_args=())
def unpack(x: Tensor, scale: Tensor, zero_point: Tensor | None, shape: list[int]) -> Tensor:
    """Give the float weight that is stored: (x - zero_point) * scale, reshaped; both broadcast against x.

    >>> unpack(torch.tensor([[7, -7]], dtype=torch.int8), torch.tensor([[0.5]]), None, [2])
    tensor([ 3.5000, -3.5000])
    """
    values = x.to(scale.dtype)
    if zero_point is not None:
        values = values - zero_point.to(scale.dtype)
    return (values * scale).reshape(shape)


@torch.library.custom_op("penjing::dynamic_linear", mutates_args=())
def dynamic_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    r"""Linear in integers whose input is quantised as it comes, x [..., in], weight int8 [in, out], scale [out].

    With the range of all of x, widened to hold zero: s = (max - min) / 255, z = saturate(round(-min / s)),
    q = saturate(round(x / s) + z), and the output (q - z) W * (s scale) + bias, the sum taken in integers.
    """
    products = _dynamic_product(x, weight, scale)
    return products if bias is None else products + bias


def dynamic_range(x: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point of uint8 that hold all values of a tensor, and zero.

    >>> dynamic_range(torch.tensor([-1.0, 1.55]))
    (tensor(0.0100), tensor(100.))
    """
    low, high = x.amin().clamp_max(0), x.amax().clamp_min(0)
    step = (high - low) / 255
    step = torch.where(step > 0, step, torch.ones_like(step))
    return step, torch.round(-low / step).clamp_(0, 255)


def _dynamic_product(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    step, zero = dynamic_range(x)
    q = (torch.round(x / step) + zero).clamp_(0, 255) - zero
    return (q.double() @ weight.double()).to(x.dtype) * (step * scale)


@torch.library.custom_op("penjing::dynamic_lstm", mutates_args=())
def dynamic_lstm(
    x: Tensor,
    weights: Sequence[Tensor],
    scales: Sequence[Tensor],
    biases: Sequence[Tensor],
    states: Sequence[Tensor],
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""LSTM whose products are those of `dynamic_linear`: the whole input at once, the state h at each step.

    [i, o, f, g] = x_t W + h_{t-1} R + b, c_t = sigma(f) c_{t-1} + sigma(i) tanh(g), h_t = sigma(o) tanh(c_t).

    x, the states h and c, and what is returned are as in torch. Of each layer: weights W int8 [directions, inputs,
    4 hidden] and R [directions, hidden, 4 hidden], their scales [directions, 4 hidden], and, where there are some,
    biases [directions, 8 hidden], those of W before those of R.
    """
    x = x.transpose(0, 1) if batch_first else x
    ends: list[tuple[Tensor, Tensor]] = []
    for layer in range(len(weights) // 2):
        w, r, w_scale, r_scale = (each[2 * layer + i] for each in (weights, scales) for i in (0, 1))
        outputs = []
        for direction in range(2 if bidirectional else 1):
            sums = _dynamic_product(x, w[direction], w_scale[direction])
            if biases:
                sums = sums + biases[layer][direction].reshape(2, -1).sum(0)
            h, c = (state[len(ends)] for state in states)
            steps = []
            for each in sums.flip(0) if direction else sums:
                gates = each + _dynamic_product(h, r[direction], r_scale[direction])
                i, o, f, g = gates.chunk(4, -1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
                steps.append(h)
            outputs.append(torch.stack(steps[::-1] if direction else steps))
            ends.append((h, c))
        x = torch.cat(outputs, -1)
    h, c = (torch.stack(each) for each in zip(*ends, strict=True))
    return x.transpose(0, 1).contiguous() if batch_first else x, h, c


@quantize_linear.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    return torch.empty_like(x, dtype=zero_point.dtype)


@clip_steps.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    return torch.empty_like(x)


@dequantize_linear.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    return torch.empty_like(x, dtype=scale.dtype)


@global_average_pool.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:2], *[1] * (x.ndim - 2)))


@unpack.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor | None, shape: list[int]) -> Tensor:
    return torch.empty(shape, dtype=scale.dtype, device=x.device)


@dynamic_linear.register_fake
def _(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[1]))


@dynamic_lstm.register_fake
def _(
    x: Tensor,
    weights: Sequence[Tensor],
    scales: Sequence[Tensor],
    biases: Sequence[Tensor],
    states: Sequence[Tensor],
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    width = states[0].shape[-1] * (2 if bidirectional else 1)
    return x.new_empty((*x.shape[:2], width)), torch.empty_like(states[0]), torch.empty_like(states[1])


def _keep_shape(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.shape = inputs[0].shape


def _spread_over_positions(ctx: Any, gradient: Tensor) -> Tensor:
    positions = torch.Size(ctx.shape[2:]).numel()
    return (gradient / positions).expand(ctx.shape)


global_average_pool.register_autograd(_spread_over_positions, setup_context=_keep_shape)
