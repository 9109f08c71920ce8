"""Scales and zero points against their definitions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from penjing.techniques.quantize import activation_params, ops, weight_params
from penjing.techniques.quantize.calibrate import sqnr_db
from penjing.techniques.quantize.params import bias_params, quantize_channels

numbers = st.floats(-1e4, 1e4, width=32)


def restore(values: Tensor, activation_scale: float = 1.0) -> Tensor:
    params = weight_params(values, None, torch.tensor(activation_scale))
    return ops.dequantize_linear(quantize_channels(values, params), params.scale, params.zero_point, 0)


@settings(deadline=None)
@given(numbers, numbers)
def test_activation_params_hold_the_range_and_zero(a: float, b: float) -> None:
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    params = activation_params(low, high)
    x = torch.tensor([low, 0.0, high])
    y = ops.dequantize_linear(
        ops.quantize_linear(x, params.scale, params.zero_point, 0), params.scale, params.zero_point, 0
    )
    assert y[1] == 0
    assert (
        (y - x).abs() <= float(params.scale) * 0.5001 + 1e-6 * x.abs()
    ).sum() >= 2  # one end may be half a step more
    assert ((y - x).abs() <= float(params.scale) * 1.0001 + 1e-6 * x.abs()).all()


def test_a_tensor_that_is_always_zero() -> None:
    params = activation_params(0.0, 0.0)
    assert (float(params.scale), int(params.zero_point)) == (1.0, 0)


def test_positive_ranges_start_at_zero_exactly() -> None:
    assert int(activation_params(0.0, 6.0).zero_point) == 0
    assert int(activation_params(2.0, 6.0).zero_point) == 0


@pytest.mark.parametrize("shape", [(64, 128), (32, 16, 3, 3)])
def test_gaussian_weights_keep_30_db(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 2, shape[0]).view(
        -1, *[1] * (len(shape) - 1)
    )
    noise = (restore(weight) - weight).square().flatten(1).sum(1)
    signal = weight.square().flatten(1).sum(1)
    assert min(sqnr_db(float(s), float(n)) for s, n in zip(signal, noise, strict=True)) >= 30


def test_zero_weights_stay_zero() -> None:
    weight = torch.randn(4, 8)
    weight[:, ::2] = 0
    assert torch.equal(restore(weight) == 0, weight == 0) or bool((restore(weight)[weight == 0] == 0).all())


def test_biases_of_dead_and_tiny_channels_do_not_overflow() -> None:
    weight = torch.tensor([[0.0], [1e-20], [1.0], [0.0]])
    bias = torch.tensor([0.7, -3.0, 0.5, 0.0])
    activation_scale = torch.tensor(0.02)
    params = weight_params(weight, bias, activation_scale)
    biases = bias_params(activation_scale, params.scale)
    back = ops.dequantize_linear(quantize_channels(bias, biases), biases.scale, biases.zero_point, 0)
    assert torch.allclose(back, bias, rtol=1e-3, atol=1e-4)
