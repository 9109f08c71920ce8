import numpy as np
import pytest

from penjing.verdict.bounded import betting_limits


def test_identical_pairs_never_give_zero() -> None:
    for n in (20, 200, 10_000):
        lower, upper = betting_limits(np.zeros(n), np.ones(n), -1, 1, alpha=0.05, seed=0)
        assert 2 / n < upper < 10 / n
        assert lower == pytest.approx(-upper)


def test_limits_mirror() -> None:
    x = np.random.default_rng(0).uniform(-0.5, 1, size=300)
    ones = np.ones(300)
    lower, upper = betting_limits(x, ones, -1, 1, alpha=0.05, seed=0)
    mirrored = betting_limits(-x, ones, -1, 1, alpha=0.05, seed=0)
    assert lower < x.mean() < upper
    assert mirrored == (-upper, -lower)


def test_limits_scale_with_the_range() -> None:
    x = np.random.default_rng(1).uniform(size=200)
    unit = np.array(betting_limits(x, np.ones(200), 0, 1, alpha=0.05, seed=0))
    scaled = betting_limits(10 * x - 5, np.ones(200), -5, 5, alpha=0.05, seed=0)
    np.testing.assert_allclose(scaled, 10 * unit - 5, atol=1e-9)


def test_wealth_is_a_fair_game_so_the_limit_holds_in_the_worst_case() -> None:
    """Rare losses of the whole range: a bootstrap passes the 37 % of trials in which none is seen."""
    rng = np.random.default_rng(2)
    n, trials, drop = 200, 400, 1 / 200
    losses = (rng.random((trials, n)) < drop).astype(float)
    passes = [betting_limits(x, np.ones(n), -1, 1, alpha=0.05, seed=i)[1] <= drop for i, x in enumerate(losses)]
    assert np.mean(passes) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / trials)


def test_clusters_of_one_size_are_their_means() -> None:
    means = np.random.default_rng(3).uniform(-1, 1, size=100)
    sizes = np.full(100, 7.0)
    np.testing.assert_allclose(
        betting_limits(7 * means, sizes, -1, 1, alpha=0.05, seed=0),
        betting_limits(means, np.ones(100), -1, 1, alpha=0.05, seed=0),
        atol=1e-9,
    )
