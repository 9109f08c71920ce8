"""Intervals hold what they say: coverage on synthetic timings whose median is known."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binom, t

from penjing.measuring.statistics import (
    Floats,
    between_processes,
    correlation_time,
    median_interval,
    noise,
    ratio_interval,
)
from penjing.types import Interval

DRAWS = 500
WORST = (
    float(binom.ppf(0.001, DRAWS, 0.95)) / DRAWS
)  # a true coverage of 95 % falls below this once in a thousand tests


def autoregressive(n: int, correlation: float, rng: np.random.Generator) -> Floats:
    """Standard normal values whose neighbours correlate."""
    values = rng.standard_normal(n)
    for i in range(1, n):
        values[i] = correlation * values[i - 1] + np.sqrt(1 - correlation**2) * values[i]
    return values


def coverage(draw: Callable[[np.random.Generator], Floats], median: float) -> float:
    rng = np.random.default_rng(0)
    intervals = [median_interval(draw(rng)) for _ in range(DRAWS)]
    return float(np.mean([interval.low <= median <= interval.high for interval in intervals]))


@pytest.mark.parametrize("n", [8, 50, 400])
def test_independent_timings(n: int) -> None:
    assert coverage(lambda rng: rng.lognormal(0, 0.2, n), 1.0) >= WORST


@pytest.mark.parametrize("n", [16, 100])
def test_outliers_without_a_variance(n: int) -> None:
    assert coverage(lambda rng: 1 + rng.pareto(1.5, n), 2 ** (1 / 1.5)) >= WORST


@pytest.mark.parametrize(("n", "correlation"), [(50, 0.3), (200, 0.6), (400, 0.8)])
def test_timings_that_resemble_their_neighbours(n: int, correlation: float) -> None:
    found = coverage(lambda rng: np.exp(0.1 * autoregressive(n, correlation, rng)), 1.0)
    assert found >= WORST - 0.01  # the correlation is estimated


def test_an_interval_that_took_them_for_independent_would_be_wrong() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(DRAWS):
        values = np.sort(autoregressive(400, 0.8, rng))
        held += values[180] <= 0.0 <= values[220]  # the usual order statistics for n = 400
    assert held / DRAWS < 0.8


def test_a_drift_widens_the_interval_over_its_range() -> None:
    rng = np.random.default_rng(0)
    steady = 1 + 0.01 * rng.standard_normal(200)
    interval = median_interval(steady * np.linspace(1, 1.5, 200))
    assert interval.low < 1.15
    assert interval.high > 1.35
    still = median_interval(steady)
    assert still.high - still.low < 0.01


def test_correlation_time_of_known_series() -> None:
    rng = np.random.default_rng(0)
    assert correlation_time(np.ones(10)) == 1.0
    assert correlation_time(rng.standard_normal(5000)) == pytest.approx(1.0, abs=0.15)
    # (1 + r) / (1 - r) for an autoregressive series
    assert correlation_time(autoregressive(20000, 0.6, rng)) == pytest.approx(4.0, rel=0.15)


def test_the_interval_holds_few_values_whole() -> None:
    assert median_interval([1.0, 5.0, 2.0]) == Interval(1.0, 5.0, 0.95)
    assert median_interval([2.0]) == Interval(2.0, 2.0, 0.95)


def test_a_ratio_of_pairs_outlives_a_common_drift() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(DRAWS):
        drift = np.exp(0.3 * autoregressive(60, 0.9, rng))
        fast, slow = (drift * rng.lognormal(0, 0.02, 60) for _ in range(2))
        value, interval = ratio_interval(1.5 * slow, fast)
        held += interval.low <= 1.5 <= interval.high
        assert value == pytest.approx(1.5, rel=0.03)
    assert held / DRAWS >= WORST


def test_processes_that_differ_widen_the_interval() -> None:
    medians = np.array([1.0, 1.1, 1.3])
    tight = [Interval(m * 0.999, m * 1.001, 0.95) for m in medians]
    value, interval = between_processes(medians.tolist(), tight)
    logarithms = np.log(medians)
    expected = t.interval(0.95, 2, logarithms.mean(), logarithms.std(ddof=1) / np.sqrt(3))
    assert value == pytest.approx(np.exp(logarithms.mean()))
    assert (interval.low, interval.high) == pytest.approx(tuple(np.exp(expected)))


def test_coverage_between_processes() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(DRAWS):
        medians = np.exp(0.05 * rng.standard_normal(3))
        _, interval = between_processes(medians.tolist(), [Interval(m, m, 0.95) for m in medians])
        held += interval.low <= 1.0 <= interval.high
    assert held / DRAWS >= WORST


def test_one_process_says_nothing_of_others() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        between_processes([1.0], [Interval(1.0, 1.0, 0.95)])


def test_noise_is_told_with_its_reason() -> None:
    assert noise(10.0, Interval(9.8, 10.2, 0.95), 0.05) is None
    assert "10.0 % of the median" in str(noise(10.0, Interval(9.0, 11.0, 0.95), 0.05))
    assert "core for 50 %" in str(noise(10.0, Interval(9.9, 10.1, 0.95), 0.05, running=0.5))
