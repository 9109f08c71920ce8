"""Which range of an activation is worth eight bits: pure functions of a histogram of what calibration has seen."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from penjing.techniques.quantize.params import UINT8_STEPS

BINS = 2048
GRID = 32


@dataclass(frozen=True)
class Histogram:
    """Counts [bins] over equal bins of [low, high]; low <= 0 <= high."""

    counts: Tensor
    low: float
    high: float

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


def mse(histogram: Histogram) -> tuple[float, float]:
    r"""Take the range with the least squared error, min_{l, h} sum_b n_b (c_b - Q_{l,h}(c_b))^2.

    Q is uint8 quantisation of [l, h], c_b the centre of bin b. Both ends are searched on a grid of 32 shares of what
    was seen. The criterion of Banner et al. 2019, "Post training 4-bit quantization of convolutional networks"
    (arXiv:1810.05723), solved by search instead of under a Laplace assumption.
    """
    counts, centers = histogram.counts.double(), histogram.centers
    shares = torch.arange(GRID, 0, -1, dtype=torch.float64) / GRID
    lows = shares * histogram.low if histogram.low < 0 else shares.new_zeros(1)
    highs = shares * histogram.high if histogram.high > 0 else shares.new_zeros(1)
    best, found = float("inf"), (histogram.low, histogram.high)
    for low in lows:
        errors = (counts * squared_error(centers, low, highs[:, None])).sum(1)
        if (error := float(errors.min())) < best:
            best, found = error, (float(low), float(highs[errors.argmin()]))
    return found


def squared_error(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Squared error of each value under uint8 quantisation of [low, high]; the shapes broadcast."""
    scale = (high - low).clamp_min(torch.finfo(torch.float32).tiny) / UINT8_STEPS
    zero_point = torch.round(-low / scale)
    stored = (torch.round(values / scale) + zero_point).clamp(0, UINT8_STEPS)
    return ((stored - zero_point) * scale - values).square()


OBSERVERS: dict[str, Observer] = {"minmax": min_max, "percentile": percentile, "mse": mse}
