import numpy as np
import pytest
from scipy.stats import bootstrap, norm, t

from penjing.verdict.bootstrap import bca_limits, corpus_jackknife, corpus_replicates, studentised_limits


def test_studentised_limits_of_normal_data_are_those_of_student() -> None:
    x = np.random.default_rng(1).normal(0.3, 2, size=60)
    lower, upper = studentised_limits(x, np.ones(60), alpha=0.05, seed=0)
    half = t.ppf(0.95, 59) * x.std(ddof=1) / np.sqrt(60)
    assert upper == pytest.approx(x.mean() + half, abs=0.06 * half)
    assert lower == pytest.approx(x.mean() - half, abs=0.06 * half)


def test_studentised_limits_lean_towards_the_long_tail() -> None:
    x = np.random.default_rng(2).exponential(size=80)
    lower, upper = studentised_limits(x, np.ones(80), alpha=0.05, seed=0)
    assert upper - x.mean() > 1.15 * (x.mean() - lower)


def test_both_ways_of_drawing_give_the_same_limits() -> None:
    """Few distinct values are drawn as counts, many as single units."""
    x = np.repeat([0.0, 1.0, -0.5], [900, 60, 40])
    noisy = x + np.random.default_rng(0).uniform(-1e-9, 1e-9, size=1000)
    few = studentised_limits(x, np.ones(1000), alpha=0.05, seed=0)
    many = studentised_limits(noisy, np.ones(1000), alpha=0.05, seed=0)
    np.testing.assert_allclose(few, many, atol=5e-4)


def test_studentised_ratio_agrees_with_fieller() -> None:
    """Fieller 1954: the ratios r at which mean(a - r*b) is not significantly different from zero."""
    rng = np.random.default_rng(3)
    b = rng.normal(5, 1, size=2000)
    a = 0.1 * b + rng.normal(0, 1, size=2000)
    lower, upper = studentised_limits(a, b, alpha=0.05, seed=0)
    z = norm.ppf(0.95)
    grid = np.linspace(0, 0.2, 20_001)
    inside = np.abs(a.mean() - grid * b.mean()) <= z * np.sqrt(
        (a.var() - 2 * grid * np.cov(a, b, ddof=0)[0, 1] + grid**2 * b.var()) / 2000
    )
    np.testing.assert_allclose([lower, upper], [grid[inside][0], grid[inside][-1]], atol=4e-4)


def test_bca_agrees_with_scipy() -> None:
    x = np.random.default_rng(4).exponential(size=50)
    rng = np.random.default_rng(5)
    replicates = x[rng.integers(50, size=(40_000, 50))].mean(axis=1)
    jackknife = (x.sum() - x) / 49
    ours = bca_limits(float(x.mean()), replicates, jackknife, alpha=0.05)
    theirs = bootstrap(
        (x,), np.mean, confidence_level=0.9, n_resamples=40_000, method="BCa", rng=rng
    ).confidence_interval
    np.testing.assert_allclose(ours, [theirs.low, theirs.high], atol=0.01)


def test_corpus_replicates_spread_like_the_statistic() -> None:
    x = np.random.default_rng(6).normal(size=400)
    means = corpus_replicates(lambda rows: float(x[rows].mean()), np.arange(400), seed=0)
    assert means.std() == pytest.approx(x.std() / 20, rel=0.06)


def test_clusters_are_drawn_whole() -> None:
    labels = np.repeat(np.arange(40), 25)
    x = np.random.default_rng(7).normal(size=40)[labels]  # all samples of a cluster agree: forty values, not a thousand
    means = corpus_replicates(lambda rows: float(x[rows].mean()), labels, seed=0)
    assert means.std() == pytest.approx(x.std() / np.sqrt(40), rel=0.06)


def test_jackknife_leaves_out_each_block_once() -> None:
    labels = np.repeat(np.arange(500), 2)
    left = corpus_jackknife(lambda rows: float(len(rows)), labels, seed=0)
    assert len(left) == 200
    assert np.sum(1000 - left) == 1000
