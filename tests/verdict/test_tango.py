import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from penjing.verdict.tango import score_statistic, tango_limits, wilson_limits


def restricted_statistic(lost: int, gained: int, n: int, drop: float) -> float:
    """The score statistic with p_gained found by maximising the trinomial likelihood numerically."""
    same = n - lost - gained

    def loss(q: float) -> float:
        counts, shares = np.array([lost, gained, same]), np.array([q + drop, q, 1 - 2 * q - drop])
        return -float(np.sum(counts[counts > 0] * np.log(np.maximum(shares[counts > 0], 1e-300))))

    low, high = max(0.0, -drop), (1 - drop) / 2
    q = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-13}).x
    return float((lost - gained - n * drop) / np.sqrt(n * (2 * q + drop - drop**2)))


@pytest.mark.parametrize(
    ("lost", "gained", "n"), [(30, 10, 1000), (1, 7, 21), (3, 3, 50), (0, 5, 40), (5, 0, 40), (200, 260, 10_000)]
)
@pytest.mark.parametrize("drop", [-0.3, -0.05, 0.01, 0.02, 0.2])
def test_statistic_agrees_with_numerical_maximum_likelihood(lost: int, gained: int, n: int, drop: float) -> None:
    assert float(score_statistic(lost, gained, n, drop)) == pytest.approx(
        restricted_statistic(lost, gained, n, drop), rel=1e-4, abs=1e-5
    )


@pytest.mark.parametrize(
    ("lost", "gained", "n", "published"),
    [
        (1, 7, 21, (-0.517, -0.026)),  # airway hyper-responsiveness, Bentur et al. 2009
        (6, 16, 161, (-0.1240, -0.0054)),  # response to consolidation therapy, Cavo et al. 2012
    ],
)
def test_limits_published_in_fagerland_lydersen_laake_2017(
    lost: int, gained: int, n: int, published: tuple[float, float]
) -> None:
    """Statistical Analysis of Contingency Tables, chapter 8: two-sided 95 % intervals."""
    digits = 3 if published[0] == -0.517 else 4
    assert tuple(round(limit, digits) for limit in tango_limits(lost, gained, n, alpha=0.025)) == published


@pytest.mark.parametrize("n", [1, 20, 200, 10_000])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_identical_pairs_have_the_closed_form(n: int, alpha: float) -> None:
    z2 = norm.ppf(1 - alpha) ** 2
    lower, upper = tango_limits(0, 0, n, alpha)
    assert upper == pytest.approx(z2 / (n + z2), rel=1e-9)
    assert lower == pytest.approx(-upper, rel=1e-9)


def test_limits_solve_the_score_equation_and_swap_with_the_models() -> None:
    rng = np.random.default_rng(0)
    n = rng.integers(5, 3000, size=300)
    lost, gained = (rng.integers(0, np.maximum(n // 3, 1)) for _ in range(2))
    lower, upper = tango_limits(lost, gained, n, alpha=0.05)
    z = norm.ppf(0.95)
    np.testing.assert_allclose(score_statistic(lost, gained, n, upper), -z, atol=1e-6)
    np.testing.assert_allclose(score_statistic(lost, gained, n, lower), z, atol=1e-6)
    swapped_lower, swapped_upper = tango_limits(gained, lost, n, alpha=0.05)
    np.testing.assert_allclose(swapped_lower, -upper, atol=1e-9)
    np.testing.assert_allclose(swapped_upper, -lower, atol=1e-9)


def test_statistic_falls_as_the_drop_grows() -> None:
    drops = np.linspace(-0.999, 0.999, 801)
    for lost, gained, n in [(0, 0, 10), (3, 0, 10), (0, 3, 10), (10, 0, 10), (2, 5, 40)]:
        assert np.all(np.diff(score_statistic(lost, gained, n, drops)) <= 1e-9)


def test_all_lost_has_a_closed_form() -> None:
    lower, upper = tango_limits(40, 0, 40, alpha=0.05)
    z2 = norm.ppf(0.95) ** 2
    assert upper == 1
    assert lower == pytest.approx((40 - z2) / (40 + z2))


def test_wilson_limits_solve_their_equation() -> None:
    z = norm.ppf(0.95)
    for p0 in wilson_limits(180, 200, alpha=0.05):
        assert abs(0.9 - p0) == pytest.approx(z * np.sqrt(p0 * (1 - p0) / 200))
    assert wilson_limits(0, 10, 0.05)[0] == 0
    assert wilson_limits(10, 10, 0.05)[1] == 1
