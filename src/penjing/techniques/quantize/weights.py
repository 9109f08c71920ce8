r"""Weights on a grid: scales and zero points per tensor, output or group, and the integers between.

A weight w is stored as q = clamp(round(w / scale) + zero_point). Where a grid has 8 bits the scale reaches the largest
value; where it has fewer, clipping the tails costs less than the coarser steps that they ask for, and the scale is the
one with the least squared error, sum_i (w_i - Q(w_i))^2, searched over shares of the largest value (Banner et al. 2019,
arXiv:1810.05723).
"""

import torch
from torch import Tensor

from penjing.recipe import Grid
from penjing.recipe.schemes import INTEGERS
from penjing.techniques.quantize.params import INT32_ROOM, SMALLEST_SCALE, QuantParams
from penjing.types import Granularity

SHARES = torch.linspace(1.0, 0.4, 25, dtype=torch.float64)
FP8_LARGEST = 448.0
TYPES = {
    **{name: torch.uint8 if name.startswith("u") else torch.int8 for name in INTEGERS},
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8": torch.float8_e4m3fn,
}
"""What torch stores a value in; fewer bits than eight have no type there, and take eight."""

PER_CHANNEL = Grid("int8")


def groups_of(inputs: int, grid: Grid) -> int:
    """How many groups the inputs of an output fall into; one where they do not divide evenly.

    >>> groups_of(96, Grid("int4", granularity="group", group=32)), groups_of(27, Grid("int4"))
    (3, 1)
    """
    return inputs // grid.group if grid.group is not None and inputs % grid.group == 0 else 1


def fit(matrix: Tensor, grid: Grid) -> QuantParams:
    """Scales and zero points [rows, groups] of a weight [outputs, inputs]; rows is 1 for one scale of all.

    >>> fit(torch.tensor([[1.27, 0.5], [0.0, -2.54]]), Grid("int8")).scale
    tensor([[0.0100],
            [0.0200]])
    """
    outputs, inputs = matrix.shape
    count = groups_of(inputs, grid)
    rows = 1 if grid.granularity is Granularity.TENSOR else outputs
    values = matrix.double().reshape(1 if rows == 1 else outputs * count, -1)
    if not grid.is_integer:
        scale = values.abs().amax(1) / FP8_LARGEST if grid.type == "fp8" else torch.ones(len(values))
        return _params(scale, torch.zeros_like(scale), grid, rows)
    best = torch.full((len(values),), torch.inf, dtype=torch.float64, device=values.device)
    found = _span(values, grid, 1.0)
    for share in SHARES if grid.bits < 8 else SHARES[:1]:
        scale, zero = _span(values, grid, float(share))
        error = (values - _rounded(values, scale[:, None], zero[:, None], grid)).square().sum(1)
        better = error < best
        best = torch.where(better, error, best)
        found = torch.where(better, scale, found[0]), torch.where(better, zero, found[1])
    return _params(*found, grid, rows)


def weight_params(
    weight: Tensor,
    bias: Tensor | None,
    activation_scale: Tensor,
    grid: Grid = PER_CHANNEL,
) -> QuantParams:
    r"""Parameters [outputs, 1], or [1, 1], of the weight of a layer that computes in integers.

    The bias of output o is stored in int32 with scale activation_scale * scale_o; where that would overflow (a dead
    channel with a bias), the scale grows until it does not. weight: [outputs, ...]; bias: [outputs].

    >>> weight_params(torch.tensor([[1.27, 0.5], [0.0, -2.54]]), None, torch.tensor(1.0)).scale.flatten()
    tensor([0.0100, 0.0200])
    """
    params = fit(weight.flatten(1), grid)
    if bias is None:
        return params
    least = bias.abs().double() / (activation_scale.double() * INT32_ROOM)
    least = least.amax().reshape(1, 1) if len(params.scale) == 1 else least[:, None]
    return QuantParams(torch.maximum(params.scale.double(), least).float(), params.zero_point)


def quantize(matrix: Tensor, params: QuantParams, grid: Grid) -> Tensor:
    """Store a weight [outputs, inputs] with the parameters that `fit` gave, each value to the nearest."""
    scale, zero = spread(params.scale, matrix.shape), spread(params.zero_point, matrix.shape)
    if not grid.is_integer:
        return (matrix / scale.to(matrix)).to(TYPES[grid.type])
    low, high = grid.limits
    return (torch.round(matrix.double() / scale.double()) + zero.double()).clamp_(low, high).to(TYPES[grid.type])


def dequantize(stored: Tensor, params: QuantParams) -> Tensor:
    """The weight [outputs, inputs] that is stored, float32."""
    scale, zero = spread(params.scale, stored.shape), spread(params.zero_point, stored.shape)
    return (stored.float() - zero.float()) * scale


def spread(values: Tensor, shape: torch.Size) -> Tensor:
    """Repeat what groups have [rows, groups] over the weight that they hold for [outputs, inputs]."""
    outputs, inputs = shape
    rows, groups = values.shape
    return values[:, :, None].expand(rows, groups, inputs // groups).reshape(rows, inputs).expand(outputs, inputs)


def _span(values: Tensor, grid: Grid, share: float) -> tuple[Tensor, Tensor]:
    """Scale and zero point [n] that reach so much of the values [n, m] of each row."""
    low, high = grid.limits
    if grid.symmetric:
        scale = share * values.abs().amax(1) / ((high - low) / 2)
        zero = torch.full_like(scale, (high + low + 1) // 2 if low == 0 else 0)
        return torch.where(scale < SMALLEST_SCALE, 1.0, scale), zero
    bottom, top = share * values.amin(1).clamp_max(0), share * values.amax(1).clamp_min(0)
    scale = (top - bottom) / (high - low)
    scale = torch.where(scale < SMALLEST_SCALE, 1.0, scale)
    return scale, torch.round(-bottom / scale).clamp(low, high)


def _rounded(values: Tensor, scale: Tensor, zero: Tensor, grid: Grid) -> Tensor:
    low, high = grid.limits
    return ((torch.round(values / scale) + zero).clamp(low, high) - zero) * scale


def _params(scale: Tensor, zero: Tensor, grid: Grid, rows: int) -> QuantParams:
    dtype = TYPES[grid.type] if grid.is_integer else torch.float32
    scale = torch.where(scale < SMALLEST_SCALE, 1.0, scale).float()
    return QuantParams(scale.reshape(rows, -1), zero.reshape(rows, -1).to(dtype))
