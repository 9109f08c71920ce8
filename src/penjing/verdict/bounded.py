"""Limits that hold at every sample size for scores with a known range: the guard where a bootstrap sees too little."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Largest share of the wealth that one sample may cost; any value in (0, 1) is valid, the paper suggests 1/2 to 3/4.
STAKE = 0.75
HALVINGS = 50


def betting_limits(
    totals: Floats, sizes: Floats, low: float, high: float, alpha: float, seed: int
) -> tuple[float, float]:
    r"""Give the one-sided limits (lower, upper) of sum(totals) / sum(sizes), each at level `alpha`, for every n.

    A gambler bets against the hypothesis "the mean is m" with wealth K_t(m) = prod_{i<=t} (1 + l_i*(m - x_i)), where
    the stake l_i = min(sqrt(2*log(1/alpha) / (n*s_{i-1}^2)), 3/4 / (1 - m)) depends on earlier samples only. Under the
    hypothesis K is a martingale, so it reaches 1/alpha with probability at most alpha (Ville): the upper limit is the
    smallest m it ruins. Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting",
    Journal of the Royal Statistical Society B 86:1-27, arXiv:2010.09686.

    totals, sizes: [k], the sum of the scores and the number of samples of each independent unit; sizes of one are
    plain samples. low, high: the range of one score; units are scaled by the largest size. The units are taken in an
    order drawn with `seed`, which makes them exchangeable.

    >>> identical = np.zeros(1000)
    >>> [round(limit, 4) for limit in betting_limits(identical, np.ones(1000), -1, 1, alpha=0.05, seed=0)]
    [-0.0041, 0.0041]
    """
    order = np.random.default_rng(seed).permutation(len(totals))
    totals, sizes = totals[order], sizes[order]
    upper = _upper(totals, sizes, low, high, alpha)
    lower = -_upper(-totals, sizes, -high, -low, alpha)
    return lower, upper


def _upper(totals: Floats, sizes: Floats, low: float, high: float, alpha: float) -> float:
    largest = float(sizes.max())
    goal = np.log(1 / alpha)
    stake = _stakes((totals / largest - low) / (high - low), goal)

    def ruined(mean: float) -> bool:
        """Whether the bets against `mean` ever win 1/alpha; once true, true for every larger mean."""
        gain = (mean * sizes - totals) / ((high - low) * largest)
        capped = np.minimum(stake, STAKE * (high - low) / max(high - mean, 1e-12))
        # The cap keeps 1 + stake*gain at 1 - STAKE or more, so the logarithm is finite.
        return bool(np.max(np.cumsum(np.log1p(capped * gain))) >= goal)

    below, above = low, high
    for _ in range(HALVINGS):
        middle = (below + above) / 2
        below, above = (below, middle) if ruined(middle) else (middle, above)
    return above


def _stakes(x: Floats, goal: float) -> Floats:
    """Give the uncapped stake of each sample from the running variance of those before it, x in [0, 1]."""
    t = np.arange(1, len(x) + 1)
    mean = (0.5 + np.cumsum(x)) / (t + 1)
    variance = (0.25 + np.cumsum((x - mean) ** 2)) / (t + 1)
    earlier = np.concatenate([[0.25], variance[:-1]])
    return np.sqrt(2 * goal / (len(x) * earlier))
