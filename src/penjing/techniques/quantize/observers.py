"""Which range of an activation is worth eight bits: pure functions of a histogram of what calibration has seen."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from penjing.techniques.quantize.params import UINT8_STEPS

BINS = 2048
GRID = 32


@dataclass(frozen=True)
class Histogram:
    """Counts [bins] over equal bins of [low, high]; low <= 0 <= high.

    extremes: the smallest and the largest value of each batch, widened to hold zero. weights: by how much the outputs
    move, in squares, for an error of one in the values of each bin [bins]; None where that was not looked at.
    """

    counts: Tensor
    low: float
    high: float
    extremes: tuple[tuple[float, float], ...] = ()
    weights: Tensor | None = None

    @property
    def centers(self) -> Tensor:
        """Middle of each bin, float64 [bins]."""
        bins = len(self.counts)
        return self.low + (torch.arange(bins, dtype=torch.float64) + 0.5) * (self.high - self.low) / bins


Observer = Callable[[Histogram], tuple[float, float]]


def min_max(histogram: Histogram) -> tuple[float, float]:
    """Take all that was seen.

    >>> min_max(Histogram(torch.ones(4), -1.0, 3.0))
    (-1.0, 3.0)
    """
    return histogram.low, histogram.high


def average(histogram: Histogram) -> tuple[float, float]:
    """Take the mean over batches of the smallest and of the largest value, which single far values move little.

    A moving average whose last batch counts 1/n; Jacob et al. 2018 (arXiv:1712.05877), section 3.1.

    >>> average(Histogram(torch.ones(4), -1.0, 3.0, ((-1.0, 1.0), (0.0, 3.0))))
    (-0.5, 2.0)
    """
    if not histogram.extremes:
        return min_max(histogram)
    lows, highs = zip(*histogram.extremes, strict=True)
    return sum(lows) / len(lows), sum(highs) / len(highs)


def percentile(histogram: Histogram, share: float = 99.99) -> tuple[float, float]:
    """Take the central `share` percent of the values; half of the rest is clipped at each end.

    Wu et al. 2020, "Integer Quantization for Deep Learning Inference" (arXiv:2004.09602), section 3.3.

    >>> percentile(Histogram(torch.ones(100), -50.0, 50.0), 90.0)
    (-45.0, 45.0)
    """
    counts = histogram.counts.double()
    if not counts.any():  # the tensor is zero wherever it was looked at
        return histogram.low, histogram.high
    below = counts.cumsum(0)
    tail = (100.0 - share) / 200.0 * float(below[-1])
    width = (histogram.high - histogram.low) / len(counts)
    first = int((below > tail).nonzero()[0])
    last = int((below >= below[-1] - tail).nonzero()[0])
    inside_first = (tail - (float(below[first]) - float(counts[first]))) / float(counts[first])
    inside_last = (float(below[-1]) - tail - (float(below[last]) - float(counts[last]))) / float(counts[last])
    low = histogram.low + (first + inside_first) * width
    high = histogram.low + (last + inside_last) * width
    return min(low, 0.0), max(high, 0.0)


def mse(histogram: Histogram, bits: int = 8) -> tuple[float, float]:
    r"""Take the range with the least squared error, min_{l, h} sum_b n_b (c_b - Q_{l,h}(c_b))^2.

    Q is quantisation of [l, h] to 2^bits steps, c_b the centre of bin b. Both ends are searched on a grid of 32 shares
    of what was seen. The criterion of Banner et al. 2019, "Post training 4-bit quantization of convolutional networks"
    (arXiv:1810.05723), solved by search instead of under a Laplace assumption.
    """
    counts, centers = histogram.counts.double(), histogram.centers
    shares = torch.arange(GRID, 0, -1, dtype=torch.float64) / GRID
    lows = shares * histogram.low if histogram.low < 0 else shares.new_zeros(1)
    highs = shares * histogram.high if histogram.high > 0 else shares.new_zeros(1)
    best, found = float("inf"), (histogram.low, histogram.high)
    for low in lows:
        errors = (counts * squared_error(centers, low, highs[:, None], bits)).sum(1)
        if (error := float(errors.min())) < best:
            best, found = error, (float(low), float(highs[errors.argmin()]))
    return found


def fisher(histogram: Histogram) -> tuple[float, float]:
    r"""Take the range whose errors move the outputs least, min_{l, h} sum_b g_b (c_b - Q_{l,h}(c_b))^2.

    g_b is the sum, over the values x in bin b, of the squared gradient (d y / d x)^2 of the outputs y: values far out
    that matter little are clipped, and those that matter are not. The criterion of `mse` with the diagonal of the
    Fisher matrix of Li et al. 2021, BRECQ (arXiv:2102.05426). That of `mse` where no gradients were looked at.
    """
    return mse(histogram if histogram.weights is None else replace(histogram, counts=histogram.weights))


def entropy(histogram: Histogram) -> tuple[float, float]:
    r"""Take the range whose quantised distribution tells least less, min_{l, h} KL(P_{l,h} || Q_{l,h}).

    P is the histogram with what lies outside [l, h] added to the bins at its ends; Q gives all bins of one of the 256
    levels that hold anything the same count, their mean. Migacz 2017, "8-bit Inference with TensorRT" (GTC), here with
    one end after the other searched on the grid of `mse`.

    >>> entropy(Histogram(torch.tensor([1.0] * 2047 + [0.0]), 0.0, 1.0))[0]
    0.0
    """
    counts = histogram.counts.double()
    total, bins = float(counts.sum()), len(counts)
    if total == 0:
        return histogram.low, histogram.high
    edges = histogram.low + torch.arange(bins + 1, dtype=torch.float64) * (histogram.high - histogram.low) / bins
    zero = int(torch.searchsorted(edges, torch.tensor(0.0, dtype=torch.float64)).clamp(0, bins))
    # A rectifier's zeros are exact in any range, and would drown the rest: their bin counts as its neighbours do.
    counts = counts.clone()
    place, beside = min(zero, bins - 1), [i for i in (zero - 1, zero + 1) if 0 <= i < bins]
    counts[place] = min(float(counts[place]), *(float(counts[i]) for i in beside))
    starts = sorted({round(zero * share / GRID) for share in range(GRID)}) if zero else [0]
    ends = (
        sorted({zero + round((bins - zero) * share / GRID) for share in range(1, GRID + 1)}) if zero < bins else [bins]
    )
    start, end = starts[0], ends[-1]
    for _ in range(2):  # each end in turn, and once more now that the other has moved
        end = min(ends, key=lambda each: _divergence(counts, start, each))
        start = min(starts, key=lambda each: _divergence(counts, each, end))
    return min(float(edges[start]), 0.0), max(float(edges[end]), 0.0)


def _divergence(counts: Tensor, start: int, end: int) -> float:
    """KL divergence of the bins [start, end), the rest at their ends, from their quantisation to 256 levels."""
    inside = counts[start:end]
    if end - start < 2 or not inside.any():
        return float("inf")
    p = inside.clone()
    p[0] += counts[:start].sum()
    p[-1] += counts[end:].sum()
    level = (torch.arange(end - start) * (UINT8_STEPS + 1)) // (end - start)
    sums = torch.zeros(UINT8_STEPS + 1, dtype=torch.float64).index_add_(0, level, inside)
    filled = torch.zeros(UINT8_STEPS + 1, dtype=torch.float64).index_add_(0, level, (inside > 0).double())
    q = torch.where(inside > 0, sums[level] / filled[level].clamp_min(1), torch.zeros_like(inside))
    p, q = p / p.sum(), q / q.sum()
    # An end bin that holds only what was clipped has no counterpart in Q: the least mass that a bin could have.
    least = 1.0 / float(counts.sum())
    held = p > 0
    return float((p[held] * (p[held] / q[held].clamp_min(least)).log()).sum())


def deviations(histogram: Histogram, count: float = 4.0) -> tuple[float, float]:
    """Take so many standard deviations about the mean; of values of one sign, about zero.

    >>> deviations(Histogram(torch.tensor([1.0, 1.0]), -100.0, 100.0), 1.0)
    (-50.0, 50.0)
    """
    mean, _, sigma = _moments(histogram)
    return _around(histogram, mean, count * sigma)


def laplace(histogram: Histogram) -> tuple[float, float]:
    r"""Take the range that is best for a Laplace distribution of the same mean deviation b: mu -+ alpha.

        alpha / b = W(3 * 4^M),   M = 8 bits,

    the root of d/d alpha (2 b^2 e^{-alpha / b} + alpha^2 / (3 * 4^M)) = 0, with W Lambert's function; for values of one
    sign, whose steps are half as wide, M + 1. Banner, Nahshan, Soudry 2019 (ACIQ, arXiv:1810.05723), equation 12.

    >>> low, high = laplace(Histogram(torch.tensor([1.0, 1.0]), -100.0, 100.0))
    >>> (low, high)
    (-100.0, 100.0)
    """
    from scipy.special import lambertw

    mean, deviation, _ = _moments(histogram)
    return _around(histogram, mean, deviation * float(lambertw(3.0 * 4.0 ** _bits(histogram)).real))


def gauss(histogram: Histogram) -> tuple[float, float]:
    r"""Take the range that is best for a normal distribution of the same sigma: mu -+ alpha, with alpha minimising

        (alpha^2 + sigma^2) (1 - erf(alpha / (sqrt(2) sigma))) - sqrt(2 / pi) alpha sigma e^{-alpha^2 / (2 sigma^2)}
            + alpha^2 / (3 * 4^M).

    Banner, Nahshan, Soudry 2019 (ACIQ, arXiv:1810.05723), appendix B.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import erf

    bits = _bits(histogram)

    def error(alpha: float) -> float:
        clipped = (alpha**2 + 1) * (1 - erf(alpha / math.sqrt(2)))
        clipped -= math.sqrt(2 / math.pi) * alpha * math.exp(-(alpha**2) / 2)
        return float(clipped + alpha**2 / (3 * 4.0**bits))

    mean, _, sigma = _moments(histogram)
    return _around(histogram, mean, sigma * float(minimize_scalar(error, bounds=(0.5, 10.0), method="bounded").x))


def _bits(histogram: Histogram) -> int:
    """Bits on each side of the mean: one more where the values have one sign, and half the range is empty."""
    return 8 if histogram.low < 0 < histogram.high else 9


def _moments(histogram: Histogram) -> tuple[float, float, float]:
    """Mean, mean absolute deviation, and standard deviation; of values of one sign about zero, as of both sides."""
    counts, centers = histogram.counts.double(), histogram.centers
    total = counts.sum().clamp_min(1)
    mean = (counts * centers).sum() / total if histogram.low < 0 < histogram.high else torch.zeros(())
    off = (centers - mean).abs()
    return float(mean), float((counts * off).sum() / total), float((counts * off.square()).sum().div(total).sqrt())


def _around(histogram: Histogram, mean: float, reach: float) -> tuple[float, float]:
    """The range of so much about the mean, within what was seen and with zero in it."""
    return min(max(histogram.low, mean - reach), 0.0), max(min(histogram.high, mean + reach), 0.0)


def squared_error(values: Tensor, low: Tensor, high: Tensor, bits: int = 8) -> Tensor:
    """Squared error of each value under quantisation of [low, high] to 2^bits steps; the shapes broadcast."""
    steps = 2**bits - 1
    scale = (high - low).clamp_min(torch.finfo(torch.float32).tiny) / steps
    zero_point = torch.round(-low / scale)
    stored = (torch.round(values / scale) + zero_point).clamp(0, steps)
    error: Tensor = ((stored - zero_point) * scale - values).square()
    return error


OBSERVERS: dict[str, Observer] = {
    "minmax": min_max,
    "average": average,
    "percentile": percentile,
    "mse": mse,
    "fisher": fisher,
    "entropy": entropy,
    "deviations": deviations,
    "laplace": laplace,
    "gauss": gauss,
}
