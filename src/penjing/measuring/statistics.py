r"""What timings say: medians, ratios and intervals that hold when neighbouring timings resemble each other.

Timings of one process are not independent: frequency, caches and neighbours change slowly. They are therefore grouped
in blocks, and the interval of the median widens by the autocorrelation of the blocks. The sample median of n values
varies like

    var(median) = tau / (4 n f(m)^2),   tau = 1 + 2 sum_k corr(s_t, s_{t+k}),   s_t = 1{x_t > m},

(the Bahadur representation for dependent data; Sen 1968, doi:10.1214/aoms/1177698155), so the order statistics of an
independent sample of n / tau values bound it without any need of the density f. tau is estimated by the initial
positive sequence of Geyer 1992, "Practical Markov Chain Monte Carlo", doi:10.1214/ss/1177011137.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from penjing.types import Interval

Floats = NDArray[np.float64]


def correlation_time(series: Floats) -> float:
    """Integrated autocorrelation time, tau >= 1: how many values are worth one independent value.

    >>> correlation_time(np.array([0.0, 1.0] * 50))
    1.0
    >>> correlation_time(np.repeat([0.0, 1.0], 50)) > 20
    True
    """
    n = len(series)
    centred = series - series.mean()
    variance = float(centred @ centred)
    if variance == 0.0:
        return 1.0
    correlations = np.correlate(centred, centred, "full")[n - 1 :] / variance
    tau = -1.0
    for k in range(0, n - 1, 2):
        pair = float(correlations[k] + correlations[k + 1])
        if pair <= 0.0:
            break
        tau += 2.0 * pair
    # Centring on the estimated mean takes some n/(n - tau) of the correlation away.
    tau = max(tau, 1.0)
    return min(tau * n / max(n - 2.0 * tau, 1.0), float(n)) if tau > 1.0 else 1.0


def median_interval(values: Sequence[float] | Floats, confidence: float = 0.95) -> Interval:
    r"""Interval of the median of a stationary series, by order statistics of its effective sample size.

    The quantiles 1/2 -+ (z / (2 sqrt(m)) + 1 / (2 m)), m = n / tau, with z the normal quantile. In simulation 95 %
    intervals hold the median in 97 to 99 % of cases for independent values and in 94 % or more at a lag-one
    correlation of 0.6, from 16 values on; at 0.9 in 89 % with 50 values and 96 % with 400.

    >>> median_interval(np.arange(101.0) % 10).low
    3.0
    """
    from scipy.stats import norm

    series = np.asarray(values, np.float64)
    effective = len(series) / correlation_time((series > np.median(series)).astype(np.float64))
    half = float(norm.ppf(0.5 + confidence / 2)) / (2 * math.sqrt(effective)) + 1 / (2 * effective)
    low = np.quantile(series, max(0.0, 0.5 - half), method="lower")
    high = np.quantile(series, min(1.0, 0.5 + half), method="higher")
    return Interval(float(low), float(high), confidence)


def ratio_interval(
    above: Floats, below: Floats, confidence: float = 0.95, *, session: NDArray[np.int64] | None = None
) -> tuple[float, Interval]:
    """Median of paired ratios above[i] / below[i] and its interval; what slows both of a pair cancels.

    session: which pair of sessions each ratio was taken in. Sessions of one file differ by where their memory lies,
    which no number of calls averages away; with several of them the value is the geometric mean of their medians with
    Student's t interval of the logarithms, whose spread holds what differs within a session as well (the highest level
    of Kalibera and Jones 2013, "Rigorous Benchmarking in Reasonable Time", doi:10.1145/2491894.2464160).

    >>> ratio_interval(np.array([2.0, 4.0, 8.0]), np.array([1.0, 2.0, 4.0]))[0]
    2.0
    """
    logarithms = np.log(above) - np.log(below)
    if session is None:
        interval = median_interval(logarithms, confidence)
        centre, low, high = float(np.median(logarithms)), interval.low, interval.high
    else:
        centre, half = student([float(np.median(logarithms[session == i])) for i in np.unique(session)], confidence)
        low, high = centre - half, centre + half
    return math.exp(centre), Interval(math.exp(low), math.exp(high), confidence)


def between_processes(medians: Sequence[float], intervals: Sequence[Interval]) -> tuple[float, Interval]:
    """Join medians taken in several processes: their geometric mean, with an interval that covers how processes differ.

    Student's t interval of the logarithms, widened to hold every process's own interval: a process keeps its memory
    layout for life, and no number of calls within it averages that away.

    >>> value, interval = between_processes([1.0, 1.0], [Interval(0.9, 1.1, 0.95)] * 2)
    >>> value, interval.low, interval.high
    (1.0, 0.9, 1.1)
    """
    if len(medians) < 2:
        raise ValueError("how processes differ takes at least 2 of them; ask for processes=3")
    confidence = intervals[0].confidence
    centre, half = student([math.log(median) for median in medians], confidence)
    low = min(math.exp(centre - half), *(interval.low for interval in intervals))
    high = max(math.exp(centre + half), *(interval.high for interval in intervals))
    return math.exp(centre), Interval(low, high, confidence)


def student(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """Mean of independent values, and half of Student's t interval of it.

    >>> [round(value, 3) for value in student([1.0, 2.0, 3.0], 0.95)]
    [2.0, 2.484]
    """
    from scipy.stats import t

    n = len(values)
    half = float(t.ppf(0.5 + confidence / 2, n - 1)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return float(np.mean(values)), half


def noise(value: float, interval: Interval, limit: float, running: float = 1.0, *, of: str = "median") -> str | None:
    """Say why a figure should not be relied on; None when half its interval is within `limit` of the value.

    running: share of the time in which the measured thread had a core; below 90 % the median itself is too high.

    >>> noise(1.0, Interval(0.8, 1.2, 0.95), 0.05)
    'the 95 % interval is 20.0 % of the median to either side, more than 5 %'
    """
    if running < 0.9:
        return f"the thread had a core for {running:.0%} of the time: other work shares it".replace("%", " %")
    half = (interval.high - interval.low) / 2 / value
    if half <= limit:
        return None
    return (
        f"the {interval.confidence:.0%} interval is {half:.1%} of the {of} to either side, more than {limit:.0%}"
    ).replace("%", " %")
