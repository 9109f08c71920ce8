"""How much a candidate loses, with one-sided limits: which method for which scores.

    right or wrong, independent samples    Tango's score limits
    known range, enough pairs differ       studentised bootstrap (of the ratio, for relative drops)
    known range, few pairs differ          betting limits, which hold at every sample size
    no known range, enough pairs differ    studentised bootstrap of the ratio
    metric of the whole corpus             BCa bootstrap of the whole metric
    the last two, few pairs differ         no limits: a bootstrap over (nearly) identical pairs is [0, 0] and proves nothing

With clusters (`groups`), clusters are drawn instead of samples and right-or-wrong scores are treated as any bounded score.
The drop is reference - candidate where higher is better and candidate - reference where lower is, divided by |reference|
if it is relative. benchmarks/verdict_size.py measures how often each method certifies a drop at the margin.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from penjing.errors import ContractError, WorkloadError
from penjing.types import Direction
from penjing.verdict.bootstrap import Indices, corpus_limits, studentised_limits
from penjing.verdict.bounded import betting_limits
from penjing.verdict.tango import tango_limits, wilson_limits
from penjing.workload import Metric, MetricKind, Samples

Floats = NDArray[np.float64]

# With fewer (effective) differing pairs the studentised bootstrap certifies too often: 11 % instead of 5 % at four pairs.
ENOUGH_PAIRS = 30


class Limits(NamedTuple):
    """One-sided limits of a value, each at the level asked for; infinite where the data says nothing."""

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
    if not relative and known_range(metric) is None:
        raise ContractError(
            f"{metric.name} has no known range, so an absolute drop has no scale; use relative=True, "
            "which allows a share of the reference's value"
        )
    if reference.values.shape != candidate.values.shape:
        raise WorkloadError(
            f"{metric.name}: the reference has scores of shape {reference.values.shape}, the candidate "
            f"{candidate.values.shape}; evaluate both on the same samples"
        )
    value = _drop(reference.value, candidate.value, metric.direction, relative)
    n, discordant = len(reference), int(np.count_nonzero(_distances(reference, candidate)))
    reason = None
    if relative and not _away_from_zero(value_limits(reference, alpha, seed=seed)):
        limits, reason = NOTHING, f"the reference's {metric.name} may be zero, and a share of zero is not defined"
    elif metric.kind is MetricKind.CORPUS:
        limits = _corpus_drop(reference, candidate, alpha, relative, seed)
    else:
        limits = _mean_drop(reference, candidate, alpha, relative, seed)
    if limits is NOTHING and reason is None:
        reason = (
            f"only {discordant} of {n} pairs differ (as much as {_effective(reference, candidate):.0f} equal ones), and "
            f"{metric.name} gives no bound on what rarer losses would cost; more certificate samples are needed"
        )
    return Drop(value, limits.lower, limits.upper, n, discordant, limits.method, reason)


def value_limits(samples: Samples, alpha: float, *, seed: int = 0) -> Limits:
    """Give one-sided limits of a metric's value, each at level `alpha`."""
    metric, units = samples.metric, _units(samples.groups, len(samples))
    if metric.kind is MetricKind.CORPUS:
        return _corpus(lambda rows: metric.aggregate(samples.values[rows]), units, samples, alpha, seed)
    if metric.kind is MetricKind.BINARY and samples.groups is None:
        return Limits(*wilson_limits(round(float(samples.values.sum())), len(samples), alpha), "Wilson score limits")
    totals, sizes = _sums(samples.values, units), _sums(np.ones(len(samples)), units)
    if effective_pairs(totals - samples.value * sizes) >= ENOUGH_PAIRS:
        return _clip(Limits(*studentised_limits(totals, sizes, alpha, seed), "studentised bootstrap"), known_range(metric))
    if (span := known_range(metric)) is None:
        return NOTHING
    return Limits(*betting_limits(totals, sizes, *span, alpha, seed), "betting limits")


def known_range(metric: Metric) -> tuple[float, float] | None:
    """Give (low, high) of a metric whose values are bounded on both sides, else None."""
    if metric.kind is MetricKind.UNBOUNDED or metric.low is None or metric.high is None:
        return None
    return (metric.low, metric.high) if np.isfinite([metric.low, metric.high]).all() else None


def effective_pairs(differences: Floats) -> float:
    """Give the number of differing pairs, counting small differences beside large ones for little.

    (sum d^2)^2 / sum d^4: m equal differences count as m, thousands of rounding errors beside three real ones as three.

    >>> effective_pairs(np.array([1.0, -1.0, 1.0, 0.0, 1e-6, -1e-6]))
    3.0
    """
    largest = float(np.max(np.abs(differences), initial=0.0))
    if largest == 0:
        return 0.0
    squares = (differences / largest) ** 2
    return round(float(squares.sum() ** 2 / (squares**2).sum()), 6)


def _mean_drop(reference: Samples, candidate: Samples, alpha: float, relative: bool, seed: int) -> Limits:
    metric, n = reference.metric, len(reference)
    sign = 1 if metric.direction is Direction.HIGHER else -1
    losses = sign * (reference.values - candidate.values)
    if metric.kind is MetricKind.BINARY and reference.groups is None and not relative:
        lost, gained = np.count_nonzero(losses > 0), np.count_nonzero(losses < 0)
        return Limits(*tango_limits(lost, gained, n, alpha), "Tango's score limits for paired proportions")
    units = _units(reference.groups, n)
    totals, sizes = _sums(losses, units), _sums(np.ones(n), units)
    if effective_pairs(totals) >= ENOUGH_PAIRS:
        scale = _sums(reference.values, units) * np.sign(reference.value) if relative else sizes
        what = "studentised bootstrap of the ratio" if relative else "studentised bootstrap"
        return Limits(*studentised_limits(totals, scale, alpha, seed), what)
    if (span := known_range(metric)) is None:
        return NOTHING
    width = span[1] - span[0]
    if not relative:
        return Limits(*betting_limits(totals, sizes, -width, width, alpha, seed), "betting limits")
    # Half of alpha for the drop and half for the reference: both hold together with probability 1 - alpha.
    lower, upper = betting_limits(totals, sizes, -width, width, alpha / 2, seed)
    least, most = sorted(np.abs(value_limits(reference, alpha / 2, seed=seed)[:2]))
    return Limits(
        lower / (most if lower > 0 else least),
        upper / (least if upper > 0 else most),
        "betting limits over the reference's limits",
    )


def _corpus_drop(reference: Samples, candidate: Samples, alpha: float, relative: bool, seed: int) -> Limits:
    metric = reference.metric
    if _effective(reference, candidate) < ENOUGH_PAIRS:
        return NOTHING

    def statistic(rows: Indices) -> float:
        values = metric.aggregate(reference.values[rows]), metric.aggregate(candidate.values[rows])
        return _drop(*values, metric.direction, relative)

    return _corpus(statistic, _units(reference.groups, len(reference)), reference, alpha, seed)


def _corpus(
    statistic: Callable[[Indices], float], units: list[Indices], samples: Samples, alpha: float, seed: int
) -> Limits:
    lower, upper = corpus_limits(statistic, units, alpha, seed)
    if not np.isfinite([lower, upper]).all():  # the metric is not defined on some resamples
        return NOTHING
    return Limits(lower, upper, "BCa bootstrap of the whole metric")


def _drop(reference: float, candidate: float, direction: Direction, relative: bool) -> float:
    loss = reference - candidate if direction is Direction.HIGHER else candidate - reference
    if not relative or loss == 0:
        return float(loss)
    return float(loss / abs(reference)) if reference != 0 else float(np.copysign(np.inf, loss))


def _away_from_zero(limits: Limits) -> bool:
    return limits.lower > 0 or limits.upper < 0


def _clip(limits: Limits, span: tuple[float, float] | None) -> Limits:
    if span is None:
        return limits
    return limits._replace(lower=max(limits.lower, span[0]), upper=min(limits.upper, span[1]))


def _distances(reference: Samples, candidate: Samples) -> Floats:
    """Give how far the two scores of each sample are apart: [n]."""
    difference = (reference.values - candidate.values).reshape(len(reference), -1)
    return np.sqrt(np.sum(difference**2, axis=1))


def _effective(reference: Samples, candidate: Samples) -> float:
    return effective_pairs(_sums(_distances(reference, candidate), _units(reference.groups, len(reference))))


def _units(groups: NDArray[Any] | None, n: int) -> list[Indices]:
    """Give the row indices of each independent unit: of each cluster, or of each single sample."""
    if groups is None:
        return list(np.arange(n)[:, None])
    _, labels = np.unique(np.asarray(groups), return_inverse=True)
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def _sums(values: Floats, units: list[Indices]) -> Floats:
    """Sum the values [n] of each unit."""
    if len(units) == len(values):
        return values[np.concatenate(units)]
    ends = np.cumsum([len(unit) for unit in units])
    return np.add.reduceat(values[np.concatenate(units)], np.concatenate([[0], ends[:-1]]))
