"""Bootstrap limits: studentised for means and ratios of sums, BCa for a metric of the whole corpus.

A unit is what is drawn independently: a sample, or a cluster of samples.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

RESAMPLES = 10_000
CORPUS_RESAMPLES = 2_000
JACKKNIFE_BLOCKS = 200
# Weights drawn at once (8 bytes each), and in all: beyond, fewer resamples are drawn, never below CORPUS_RESAMPLES.
CHUNK = 4_000_000
DRAWS = 2_000_000_000


def studentised_limits(
    numerator: Floats, denominator: Floats, alpha: float, seed: int, resamples: int = RESAMPLES
) -> tuple[float, float]:
    r"""Give the one-sided limits (lower, upper) of r = sum(numerator) / sum(denominator), each at level `alpha`.

    Each resample gives t* = (r* - r) / se*, and the limits are r - q_{1-alpha}(t*)*se and r - q_alpha(t*)*se, with the
    linearised standard error se^2 = sum((a_i - r*b_i)^2) / sum(b_i)^2. A denominator of ones makes r a mean, of
    cluster sizes the mean over clustered samples, of reference scores a relative change. Hall 1988, "Theoretical
    comparison of bootstrap confidence intervals", Annals of Statistics 16:927-953. Shapes [k], k units.

    >>> scores = np.repeat([0.0, 0.1], 500)
    >>> [round(limit, 3) for limit in studentised_limits(scores, np.ones(1000), alpha=0.05, seed=0)]
    [0.047, 0.053]
    """
    # Equal units are merged; as complex numbers, because NumPy sorts those twenty times faster than rows.
    distinct, counts = np.unique(numerator + 1j * denominator, return_counts=True)
    a, b = distinct.real, distinct.imag
    moments = np.stack([a, b, a * a, a * b, b * b], axis=1)  # [support, 5]
    r, se = _ratio(counts @ moments)
    rng = np.random.default_rng(seed)
    sums = np.concatenate([weights @ moments for weights in _weights(counts, resamples, rng)])
    resampled, spread = _ratio(sums)
    with np.errstate(divide="ignore"):
        t = np.where(resampled == r, 0.0, (resampled - r) / spread)
    low, high = np.quantile(t, [alpha, 1 - alpha], method="inverted_cdf")
    return float(r - high * se), float(r - low * se)


def _ratio(sums: Floats) -> tuple[Floats, Floats]:
    """Give the ratio and its standard error from the sums of a, b, a*a, a*b, b*b along the last axis."""
    a, b, aa, ab, bb = np.moveaxis(sums, -1, 0)
    r = a / b
    return r, np.sqrt(np.maximum(aa - 2 * r * ab + r * r * bb, 0)) / np.abs(b)


def _weights(counts: NDArray[np.int64], resamples: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Give how often each distinct row is drawn in each resample, in chunks [chunk, support] of bounded memory."""
    n, support = int(counts.sum()), len(counts)
    if few := 10 * support <= n:  # distinct rows are so few that drawing their counts is cheaper than drawing units
        width = support
    else:
        width, resamples = n, max(min(resamples, DRAWS // n), CORPUS_RESAMPLES)
    owner = np.repeat(np.arange(support), counts)
    chunk = max(1, CHUNK // width)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        if few:
            yield rng.multinomial(n, counts / n, size=size).astype(np.float64)
        else:
            drawn = owner[rng.integers(n, size=(size, n))] + support * np.arange(size)[:, None]
            yield np.bincount(drawn.ravel(), minlength=size * support).reshape(size, support).astype(np.float64)


def bca_limits(estimate: float, replicates: Floats, jackknife: Floats, alpha: float) -> tuple[float, float]:
    r"""Give the bias-corrected and accelerated limits (lower, upper), each at level `alpha`.

    The limit at probability p is the quantile Phi(z0 + (z0 + z_p) / (1 - acc*(z0 + z_p))) of the replicates, with
    z0 = Phi^-1(share of replicates below the estimate) and acc = sum(d^3) / (6 * sum(d^2)^(3/2)), where d are the
    deviations of the jackknife values from their mean, sign reversed. Efron 1987, "Better bootstrap confidence
    intervals", Journal of the American Statistical Association 82:171-185. Shapes: replicates [B], jackknife [J].

    >>> replicates = np.random.default_rng(0).normal(size=100_000)
    >>> [round(limit, 1) for limit in bca_limits(0.0, replicates, np.array([-1.0, 0.0, 1.0]), alpha=0.05)]
    [-1.6, 1.6]
    """
    from scipy.special import ndtr, ndtri

    below = (np.sum(replicates < estimate) + 0.5 * np.sum(replicates == estimate)) / len(replicates)
    bias = ndtri(np.clip(below, 0.5 / len(replicates), 1 - 0.5 / len(replicates)))
    deviation = np.mean(jackknife) - jackknife
    squares = np.sum(deviation**2)
    acceleration = np.sum(deviation**3) / (6 * squares**1.5) if squares > 0 else 0.0
    z = bias + ndtri([alpha, 1 - alpha])
    low, high = np.quantile(replicates, ndtr(bias + z / (1 - acceleration * z)))
    return float(low), float(high)


def corpus_replicates(statistic: Callable[[Indices], float], labels: Indices, seed: int) -> Floats:
    """Give a statistic of the whole corpus on 2,000 resamples of its units.

    statistic: from row indices (with repetition) to a number. labels: [n], the unit of each row, numbered from zero;
    whole units are drawn.

    >>> rows = np.arange(400.0)
    >>> medians = corpus_replicates(lambda index: float(np.median(rows[index])), np.arange(400), seed=0)
    >>> medians.shape, bool(abs(np.median(medians) - 199.5) < 3)
    ((2000,), True)
    """
    rng = np.random.default_rng(seed)
    rows_of = _rows(labels)
    units = int(labels.max()) + 1
    return np.array([statistic(rows_of(rng.integers(units, size=units))) for _ in range(CORPUS_RESAMPLES)])


def corpus_jackknife(statistic: Callable[[Indices], float], labels: Indices, seed: int) -> Floats:
    """Give a statistic of the whole corpus without each of at most 200 blocks of units, so that the work is bounded."""
    order = np.random.default_rng(seed).permutation(int(labels.max()) + 1)
    rows_of = _rows(labels)
    blocks = np.array_split(order, min(len(order), JACKKNIFE_BLOCKS))
    return np.array([statistic(rows_of(np.setdiff1d(order, block))) for block in blocks])


def _rows(labels: Indices) -> Callable[[Indices], Indices]:
    """Give the function from chosen units to the row indices that they hold."""
    order = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels)
    if sizes.max() == 1:
        return lambda chosen: order[chosen]
    ends = np.cumsum(sizes)
    return lambda chosen: np.concatenate([order[ends[i] - sizes[i] : ends[i]] for i in chosen])
