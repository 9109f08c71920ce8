"""Score limits for proportions: the difference of two paired ones, and a single one.

A pair is (reference, candidate) on one sample, each right or wrong. `lost` counts the pairs in which only the reference
is right, `gained` those in which only the candidate is; the drop is p_lost - p_gained.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# 64 halvings of [-1, 1] leave an interval below one unit in the last place of any limit that matters.
HALVINGS = 64


def score_statistic(lost: ArrayLike, gained: ArrayLike, n: ArrayLike, drop: ArrayLike) -> Floats:
    r"""Give the score statistic T of the hypothesis p_lost - p_gained = drop, standard normal under it.

    T = (lost - gained - n*drop) / sqrt(n * (2*q + drop*(1 - drop))), where q, the restricted maximum likelihood
    estimate of p_gained, is the larger root of
    2n*q^2 - (lost + gained - (2n - lost + gained)*drop)*q - gained*drop*(1 - drop) = 0.
    Tango 1998, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design", Statistics in Medicine 17:891-908. All arguments broadcast; T falls as `drop` grows.

    >>> float(score_statistic(30, 10, 1000, 0.02))
    0.0
    """
    b, c, n, drop = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in (lost, gained, n, drop)))
    half_b = -(b + c) + (2 * n - b + c) * drop
    root = np.sqrt(np.maximum(half_b**2 + 8 * n * c * drop * (1 - drop), 0))
    # Two forms of the same root: each is free of cancellation on its side of zero.
    with np.errstate(divide="ignore", invalid="ignore"):
        q = np.where(half_b <= 0, (root - half_b) / (4 * n), 2 * c * drop * (1 - drop) / (root + half_b))
        q = np.nan_to_num(q, nan=0.0)
        variance = np.maximum(n * (2 * q + drop * (1 - drop)), 0)
        distance = b - c - n * drop
        return np.where(distance == 0, 0.0, distance / np.sqrt(variance))


def tango_limits(lost: ArrayLike, gained: ArrayLike, n: ArrayLike, alpha: float) -> tuple[Any, Any]:
    r"""Give the one-sided limits (lower, upper) of the drop p_lost - p_gained, each at level `alpha`.

    The limits solve T(lower) = z and T(upper) = -z with z the 1 - alpha quantile of the normal, by bisection (T is
    monotone). Identical pairs give upper = z^2 / (n + z^2), never zero. Arrays broadcast and give arrays.

    >>> [round(limit, 4) for limit in tango_limits(30, 10, 1000, alpha=0.05)]
    [0.01, 0.0312]
    """
    from scipy.special import ndtri

    b, c, n = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in (lost, gained, n)))
    z = float(ndtri(1 - alpha))
    lower, upper = (_solve(b, c, n, level) for level in (z, -z))
    return (float(lower), float(upper)) if lower.ndim == 0 else (lower, upper)


def _solve(b: Floats, c: Floats, n: Floats, level: float) -> Floats:
    low, high = np.full(b.shape, -1.0), np.full(b.shape, 1.0)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        above = score_statistic(b, c, n, middle) > level
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return high


def wilson_limits(successes: int, n: int, alpha: float) -> tuple[float, float]:
    r"""Give the one-sided score limits (lower, upper) of a proportion, each at level `alpha`.

    (p + z^2/2n -+ z*sqrt(p*(1-p)/n + z^2/4n^2)) / (1 + z^2/n), p = successes / n. Wilson 1927, "Probable inference, the
    law of succession, and statistical inference", Journal of the American Statistical Association 22:209-212.

    >>> [round(limit, 4) for limit in wilson_limits(90, 100, alpha=0.025)]
    [0.8256, 0.9448]
    """
    from scipy.special import ndtri

    z2 = float(ndtri(1 - alpha)) ** 2
    p = successes / n
    middle = p + z2 / (2 * n)
    half = float(np.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))))
    scale = 1 + z2 / n
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)
