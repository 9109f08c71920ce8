"""Observers against brute force on the samples behind the histogram."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from penjing.techniques.quantize.observers import (
    BINS,
    GRID,
    OBSERVERS,
    Histogram,
    entropy,
    gauss,
    laplace,
    min_max,
    mse,
    percentile,
    squared_error,
)


def histogram(x: Tensor) -> Histogram:
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    return Histogram(torch.histc(x, BINS, low, high), low, high)


def samples(kind: str) -> Tensor:
    x = torch.randn(50_000, generator=torch.Generator().manual_seed(0))
    return {"normal": x, "relu": x.relu(), "outlier": torch.cat([x, torch.tensor([40.0])]), "negative": -x.abs()}[kind]


@pytest.mark.parametrize("kind", ["normal", "relu", "outlier", "negative"])
def test_percentile_is_the_quantile_of_the_samples(kind: str) -> None:
    x = samples(kind)
    h = histogram(x)
    low, high = percentile(h, 99.0)
    width = (h.high - h.low) / BINS
    expected_low, expected_high = np.quantile(x.numpy(), [0.005, 0.995])
    assert low == pytest.approx(min(expected_low, 0.0), abs=1.5 * width)
    assert high == pytest.approx(max(expected_high, 0.0), abs=1.5 * width)


@pytest.mark.parametrize("kind", ["normal", "relu", "negative"])
def test_mse_finds_the_best_of_the_grid(kind: str) -> None:
    h = histogram(samples(kind))

    def error(i: int, j: int) -> float:
        low, high = torch.tensor(h.low * i / GRID), torch.tensor(h.high * j / GRID)
        return float((h.counts.double() * squared_error(h.centers, low.double(), high.double())).sum())

    choices = itertools.product(range(1, GRID + 1, 1 if h.low else GRID), range(1, GRID + 1, 1 if h.high else GRID))
    best = min(error(i, j) for i, j in choices)
    low, high = (torch.tensor(v, dtype=torch.float64) for v in mse(h))
    found = float((h.counts.double() * squared_error(h.centers, low, high)).sum())
    assert found == pytest.approx(best, rel=1e-6)


def test_squared_error_is_that_of_the_operators() -> None:
    from penjing.techniques.quantize import activation_params, ops

    x = torch.linspace(-3, 5, 1000)
    params = activation_params(-1.0, 2.0)
    y = ops.dequantize_linear(
        ops.quantize_linear(x, params.scale, params.zero_point, 0), params.scale, params.zero_point, 0
    )
    expected = squared_error(x.double(), torch.tensor(-1.0).double(), torch.tensor(2.0).double())
    assert torch.allclose((y.double() - x.double()).square(), expected, atol=1e-4)


def test_an_outlier_is_clipped_by_mse_and_percentile_alone() -> None:
    h = histogram(samples("outlier"))
    assert min_max(h)[1] == 40.0
    assert percentile(h)[1] < 10
    assert mse(h)[1] < 40.0


@pytest.mark.parametrize("name", OBSERVERS)
def test_a_tensor_that_is_always_zero(name: str) -> None:
    assert OBSERVERS[name](Histogram(torch.zeros(BINS, dtype=torch.float64), 0.0, 0.0)) == (0.0, 0.0)


def laplacian(scale: float) -> Tensor:
    uniform = torch.rand(200_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 0.5
    return -scale * uniform.sign() * (1 - 2 * uniform.abs()).clamp_min(1e-12).log()


def test_the_range_for_a_laplace_distribution_is_that_of_the_paper() -> None:
    """ACIQ, table 1: 9.89 times the mean deviation at 8 bits."""
    x = laplacian(2.0)
    h = Histogram(torch.histc(x, BINS, -200.0, 200.0), -200.0, 200.0)
    low, high = laplace(h)
    assert high == pytest.approx(9.897 * 2.0, rel=0.02)
    assert low == pytest.approx(-high, rel=0.05)


def test_the_range_for_a_normal_distribution_is_the_best_there_is() -> None:
    x = torch.randn(400_000, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    h = Histogram(torch.histc(x, BINS, -12.0, 12.0), -12.0, 12.0)
    low, high = gauss(h)

    def error(reach: float) -> float:
        ends = torch.tensor([-reach, reach], dtype=torch.float64)
        return float(squared_error(x, ends[0], ends[1]).mean())

    assert low == pytest.approx(-high, rel=0.02)
    assert error(high) <= 1.02 * min(error(reach) for reach in (3.0, 3.5, 4.0, 4.5, 5.0))


@pytest.mark.parametrize("kind", ["normal", "relu", "negative", "outlier"])
@pytest.mark.parametrize("name", sorted(OBSERVERS))
def test_every_range_holds_zero_and_lies_within_what_was_seen(name: str, kind: str) -> None:
    h = histogram(samples(kind))
    low, high = OBSERVERS[name](h)
    assert h.low - 1e-6 <= low <= 0 <= high <= h.high + 1e-6
    assert high > low


def test_entropy_lets_an_outlier_go_and_keeps_a_plain_distribution() -> None:
    outlier, plain = histogram(samples("outlier")), histogram(torch.rand(50_000))
    assert entropy(outlier)[1] < 0.5 * outlier.high
    assert entropy(plain)[1] > 0.95 * plain.high


@pytest.mark.parametrize("name", sorted(OBSERVERS))
def test_a_tensor_that_is_always_zero_has_a_range(name: str) -> None:
    low, high = OBSERVERS[name](Histogram(torch.zeros(BINS), 0.0, 0.0))
    assert (low, high) == (0.0, 0.0)
