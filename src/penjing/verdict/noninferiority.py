"""How much a candidate loses, with one-sided limits: which method for which scores.

    right or wrong, independent samples    Tango's score limits
    known range, enough pairs differ       studentised bootstrap (of the ratio, for relative drops)
    known range, few pairs differ          betting limits, which hold at every sample size
    no known range, enough pairs differ    studentised bootstrap of the ratio
    metric of the whole corpus             BCa bootstrap of the whole metric
    the last two, few pairs differ         no limits: a bootstrap over identical pairs is [0, 0] and proves nothing

With clusters (`groups`), clusters are drawn instead of samples, and right-or-wrong scores are treated as any bounded
score. The drop is reference - candidate where higher is better and candidate - reference where lower is, divided by
|reference| if it is relative. benchmarks/verdict_size.py measures how often each method certifies a drop at the margin.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from penjing.errors import ContractError, WorkloadError
from penjing.types import Direction
from penjing.verdict.bootstrap import Indices, bca_limits, corpus_jackknife, corpus_replicates, studentised_limits
from penjing.verdict.bounded import betting_limits
from penjing.verdict.tango import tango_limits, wilson_limits
from penjing.workload import Metric, MetricKind, Samples

Floats = NDArray[np.float64]

# With fewer (effective) differing pairs the studentised bootstrap certifies far too often (tests/verdict/test_size.py).
ENOUGH_PAIRS = 30
# Share of a known range up to which a difference does not count. Where all are that small, betting limits, which cost
# some 8 / n of the range, do not trust the sample to have shown the largest loss.
SMALL = 0.01
# Relative rounding error of sums in float64, with room.
ROUNDING = 1e-12


class Limits(NamedTuple):
    """One-sided limits of a value, each at the level asked for, and the method that gave them."""

    lower: float
    upper: float
    method: str


NOTHING = Limits(-np.inf, np.inf, "none")


@dataclass(frozen=True, slots=True)
class Drop:
    """A drop with one-sided limits, how many of `n` pairs differ, and why there are no limits if there are none."""

    value: float
    lower: float
    upper: float
    n: int
    discordant: int
    method: str
    reason: str | None = None


def drop_limits(reference: Samples, candidate: Samples, alpha: float, *, relative: bool = False, seed: int = 0) -> Drop:
    """Give the drop from reference to candidate on the same samples, with limits at level `alpha` each.

    Raises ContractError for an absolute drop of a metric without a known range, WorkloadError when the two were not
    scored on the same samples.
    """
    metric = reference.metric
    require_scale(metric, relative)
    if reference.values.shape != candidate.values.shape:
        raise WorkloadError(
            f"{metric.name}: the reference has scores of shape {list(reference.values.shape)}, the candidate "
            f"{list(candidate.values.shape)}; evaluate both on the same samples"
        )
    value = value_drop(reference.value, candidate.value, metric.direction, relative)
    discordant = int(np.count_nonzero(_differs(reference.values, candidate.values)))
    reason = None
    if relative and not _away_from_zero(reference, alpha, seed):
        limits, reason = NOTHING, f"the reference's {metric.name} may be zero, and a share of zero is not defined"
    elif metric.kind is MetricKind.CORPUS:
        limits = _corpus_drop(reference, candidate, alpha, relative, seed)
    else:
        limits = _mean_drop(reference, candidate, alpha, relative, seed)
    if limits is NOTHING and reason is None:
        reason = (
            f"the difference rests on too few pairs ({discordant} of {len(reference)} differ, few by much) and "
            f"{metric.name} gives no bound on what rarer losses would cost; more samples would help, or per-sample "
            "scores with a known range"
        )
    return Drop(value, limits.lower, limits.upper, len(reference), discordant, limits.method, reason)


def value_limits(samples: Samples, alpha: float, *, seed: int = 0) -> Limits:
    """Give one-sided limits of a metric's value, each at level `alpha`; its range where the data says nothing."""
    metric, n = samples.metric, len(samples)
    labels = unit_labels(samples.groups, n)
    if metric.kind is MetricKind.CORPUS:
        limits = _corpus(lambda rows: float(metric.aggregate(samples.values[rows])), labels, alpha, seed)
        return limits._replace(lower=max(limits.lower, metric.low), upper=min(limits.upper, metric.high))
    if metric.kind is MetricKind.BINARY and samples.groups is None:
        return Limits(*wilson_limits(int(np.count_nonzero(samples.values)), n, alpha), "Wilson's score limits")
    totals, sizes = _sums(labels, samples.values), _sums(labels, np.ones(n))
    limits = _bootstrap(totals, sizes, metric, alpha, seed)
    if limits is not NOTHING:
        return limits._replace(lower=max(limits.lower, metric.low), upper=min(limits.upper, metric.high))
    if metric.has_known_range:
        return Limits(*betting_limits(totals, sizes, metric.low, metric.high, alpha, seed), "betting limits")
    return Limits(metric.low, metric.high, "none")


def require_scale(metric: Metric, relative: bool) -> None:
    """Raise ContractError for an absolute drop of a metric without a known range."""
    if not relative and not metric.has_known_range:
        raise ContractError(
            f"{metric.name} has no known range ([{metric.low:g}, {metric.high:g}]), so an absolute drop has no scale; "
            "use relative=True, which allows a share of the reference's value"
        )


def effective_pairs(differences: Floats, noise: float = 0.0) -> float:
    """Give the number of pairs that differ, counting small differences beside large ones for little.

    (sum d^2)^2 / sum d^4: m equal differences count as m, thousands of small ones beside three large ones as three.
    Differences up to `noise` do not count: were there only such, nothing would be known of the large ones.

    >>> round(effective_pairs(np.array([1.0, -1.0, 1.0, 0.0, 0.001, -0.001])), 3)
    3.0
    """
    largest = float(np.max(np.abs(differences), initial=0.0))
    if largest <= noise:
        return 0.0
    squares = np.where(np.abs(differences) > noise, differences / largest, 0.0) ** 2
    return float(squares.sum() ** 2 / (squares**2).sum())


def unit_labels(groups: NDArray[Any] | None, n: int) -> Indices:
    """Number the independent units from zero, one label a row: [n]; each row is its own where there are no groups."""
    return np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]


def _mean_drop(reference: Samples, candidate: Samples, alpha: float, relative: bool, seed: int) -> Limits:
    metric, n = reference.metric, len(reference)
    sign = 1 if metric.direction is Direction.HIGHER else -1
    losses = sign * (reference.values - candidate.values)
    if metric.kind is MetricKind.BINARY and reference.groups is None and not relative:
        lost, gained = np.count_nonzero(losses > 0), np.count_nonzero(losses < 0)
        return Limits(*tango_limits(lost, gained, n, alpha), "Tango's score limits")
    labels = unit_labels(reference.groups, n)
    totals, sizes = _sums(labels, losses), _sums(labels, np.ones(n))
    scale = _sums(labels, reference.values) * np.sign(reference.value) if relative else sizes
    limits = _bootstrap(totals, scale, metric, alpha, seed)
    if limits is not NOTHING:
        return limits
    if not metric.has_known_range:
        return NOTHING
    width = metric.high - metric.low
    if not relative:
        return Limits(*betting_limits(totals, sizes, -width, width, alpha, seed), "betting limits")
    # Half of alpha for the drop and half for the reference: both hold together with probability 1 - alpha.
    lower, upper = betting_limits(totals, sizes, -width, width, alpha / 2, seed)
    least, most = sorted(abs(limit) for limit in value_limits(reference, alpha / 2, seed=seed)[:2])
    lower, upper = lower / (most if lower > 0 else least), upper / (least if upper > 0 else most)
    return Limits(lower, upper, "betting limits over the reference's limits")


def _corpus_drop(reference: Samples, candidate: Samples, alpha: float, relative: bool, seed: int) -> Limits:
    metric = reference.metric

    def statistic(rows: Indices) -> float:
        values = metric.aggregate(reference.values[rows]), metric.aggregate(candidate.values[rows])
        return value_drop(*values, metric.direction, relative)

    return _corpus(statistic, unit_labels(reference.groups, len(reference)), alpha, seed)


def _corpus(statistic: Callable[[Indices], float], labels: Indices, alpha: float, seed: int) -> Limits:
    jackknife = corpus_jackknife(statistic, labels, seed)
    noise = ROUNDING * float(np.abs(jackknife).max())
    if not effective_pairs(jackknife - jackknife.mean(), noise) >= ENOUGH_PAIRS:  # also where it is not a number
        return NOTHING
    replicates = corpus_replicates(statistic, labels, seed)
    if not np.isfinite(replicates).all():  # the metric is not defined on some resamples
        return NOTHING
    estimate = statistic(np.arange(len(labels)))
    return Limits(*bca_limits(estimate, replicates, jackknife, alpha), "BCa bootstrap of the whole metric")


def value_drop(reference: float, candidate: float, direction: Direction, relative: bool = False) -> float:
    """How much worse a value is than the reference's, absolute or as a share of it; below 0 where it is better.

    >>> round(value_drop(0.8, 0.6, Direction.HIGHER, relative=True), 12)
    0.25
    """
    loss = reference - candidate if direction is Direction.HIGHER else candidate - reference
    if not relative or loss == 0:
        return float(loss)
    return float(loss / abs(reference)) if reference != 0 else float(np.copysign(np.inf, loss))


def _bootstrap(totals: Floats, scale: Floats, metric: Metric, alpha: float, seed: int) -> Limits:
    """Give studentised limits of sum(totals) / sum(scale), or nothing where too few units vary about the ratio."""
    fitted = totals.sum() / scale.sum() * scale
    if metric.has_known_range:
        noise = SMALL * (metric.high - metric.low)
    else:
        noise = ROUNDING * float(np.abs([totals, scale]).max())
    if effective_pairs(totals - fitted, noise) < ENOUGH_PAIRS:
        return NOTHING
    return Limits(*studentised_limits(totals, scale, alpha, seed), "studentised bootstrap")


def _away_from_zero(reference: Samples, alpha: float, seed: int) -> bool:
    """Whether a share of the reference's value means something: a mean is three standard errors from zero.

    The reference is one sample, not a difference of two: that few of its scores vary is no reason to doubt its mean.
    """
    if reference.metric.kind is MetricKind.CORPUS:
        lower, upper, _ = value_limits(reference, alpha, seed=seed)
        return lower > 0 or upper < 0
    labels = unit_labels(reference.groups, len(reference))
    totals, sizes = _sums(labels, reference.values), _sums(labels, np.ones(len(reference)))
    residuals = totals - totals.sum() / sizes.sum() * sizes
    error = float(np.sqrt((residuals**2).sum()))
    return bool(totals.sum() != 0 and abs(totals.sum()) > 3 * error)


def _sums(labels: Indices, values: NDArray[Any]) -> Floats:
    """Sum the values [n] of each unit."""
    return np.bincount(labels, values).astype(np.float64)


def _differs(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.bool_]:
    """Say of each row whether it differs anywhere: [n]. Rows may be records."""
    columns = [None] if a.dtype.names is None else a.dtype.names
    differs = np.zeros(len(a), dtype=np.bool_)
    for name in columns:
        x, y = (a, b) if name is None else (a[name], b[name])
        differs |= np.any(np.asarray(x != y).reshape(len(a), -1), axis=1)
    return differs
