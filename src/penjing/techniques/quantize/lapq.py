r"""Ranges of all activations together: those of the least error of the outputs, and not each for itself.

Nahshan et al. 2021, "Loss Aware Post-training Quantization" (arXiv:1911.07190): the ranges that minimise
sum_b n_b |c_b - Q(c_b)|^p lie on a curve in p; the best point of it, by a parabola through the error of the outputs, is
where a search along each range in turn begins. The outputs' error stands for the loss, so that no labels are needed.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch

from penjing.techniques.quantize.observers import GRID, Histogram, squared_error

POWERS = (2.0, 2.5, 3.0, 4.0)
FACTORS = (0.9, 1.1)

Ranges = Mapping[str, tuple[float, float]]


def joint_ranges(
    histograms: Mapping[str, Histogram], decibel: Callable[[Ranges], float]
) -> dict[str, tuple[float, float]]:
    """Search ranges for all tensors; decibel: how far the outputs lie above their error with some ranges."""
    on_curve = {p: {name: lp_range(histogram, p) for name, histogram in histograms.items()} for p in POWERS}
    values = {p: decibel(ranges) for p, ranges in on_curve.items()}
    best_p = max(values, key=lambda p: values[p])
    a, b, _ = np.polyfit(POWERS, [values[p] for p in POWERS], 2)
    ranges, best = on_curve[best_p], values[best_p]
    if a < 0 and POWERS[0] < (top := float(-b / (2 * a))) < POWERS[-1]:
        tried = {name: lp_range(histogram, top) for name, histogram in histograms.items()}
        if (value := decibel(tried)) > best:
            ranges, best = tried, value
    for name in ranges:
        low, high = ranges[name]
        for factor in FACTORS:
            tried = {**ranges, name: (low * factor, high * factor)}
            if (value := decibel(tried)) > best:
                ranges, best = tried, value
    return dict(ranges)


def lp_range(histogram: Histogram, p: float) -> tuple[float, float]:
    r"""Range that minimises sum_b n_b |c_b - Q(c_b)|^p among shares of what was seen, both ends alike.

    >>> lp_range(Histogram(torch.ones(8), -1.0, 1.0), 2.0)
    (-0.9375, 0.9375)
    """
    counts, centers = histogram.counts.double(), histogram.centers
    shares = torch.arange(GRID, 0, -1, dtype=torch.float64)[:, None] / GRID
    errors = squared_error(centers, shares * histogram.low, shares * histogram.high) ** (p / 2)
    share = float(shares[(counts * errors).sum(1).argmin()])
    return share * histogram.low, share * histogram.high
