"""The terms of a contract, one by one: what each compares, how it comes out, and how many samples would decide it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from penjing.errors import ContractError
from penjing.measuring import Latency, measure_fresh, memory
from penjing.recipe import Contract, MaxDrop, MinValue
from penjing.runtimes import Artifact
from penjing.types import Decision, Direction
from penjing.verdict.noninferiority import drop_limits, require_scale, value_limits
from penjing.verdict.power import n_needed
from penjing.verdict.verdict import LimitResult, show, unit_of
from penjing.workload import Metric, MetricKind, Samples, Workload

# Probability with which the number of samples that is asked for decides.
PROBABILITY = 0.8


@dataclass(frozen=True, slots=True)
class Term:
    """A limit on a metric, tested on the scores of the reference and the candidate."""

    metric: Metric
    limit: MaxDrop | MinValue

    def test(self, reference: Samples, candidate: Samples, alpha: float, seed: int = 0) -> LimitResult:
        """Compare with limits at level `alpha` each. Raises ContractError for a slice that no sample belongs to."""
        if self.limit.slice is not None:
            reference, candidate = take_slice(reference, self.limit.slice), take_slice(candidate, self.limit.slice)
        if isinstance(self.limit, MinValue):
            return self._test_value(self.limit, candidate, alpha, seed)
        found = drop_limits(reference, candidate, alpha, relative=self.limit.relative, seed=seed)
        outcome = _decide(found.lower, found.upper, self.limit.max_drop)
        unit = unit_of(self.metric, self.limit.relative)
        reason = (
            found.reason
            or {
                Decision.PASS: None,
                Decision.FAIL: f"it drops by at least {show(found.lower, unit)}",
                Decision.UNDECIDED: f"it may drop by as much as {show(found.upper, unit)}",
            }[outcome]
        )
        return LimitResult(
            what=self.limit.describe(),
            outcome=outcome,
            value=found.value,
            lower=found.lower,
            upper=found.upper,
            limit=self.limit.max_drop,
            n=found.n,
            discordant=found.discordant,
            method=found.method,
            reason=reason,
            unit=unit,
        )

    def seems_kept(self, reference: Samples, candidate: Samples) -> bool:
        """Whether the point estimate keeps the term: for a search, on data that may be looked at; no test."""
        found = self.test(reference, candidate, alpha=0.5)
        if isinstance(self.limit, MinValue) and self.metric.direction is Direction.HIGHER:
            return found.value >= found.limit
        return found.value <= found.limit

    def _test_value(self, limit: MinValue, candidate: Samples, alpha: float, seed: int) -> LimitResult:
        lower, upper, method = value_limits(candidate, alpha, seed=seed)
        if self.metric.direction is Direction.HIGHER:
            outcome = _decide(-upper, -lower, -limit.value)
            bound = f"at least {lower:.4g}" if outcome is Decision.UNDECIDED else f"at most {upper:.4g}"
        else:
            outcome = _decide(lower, upper, limit.value)
            bound = f"at most {upper:.4g}" if outcome is Decision.UNDECIDED else f"at least {lower:.4g}"
        return LimitResult(
            what=limit.describe(),
            outcome=outcome,
            value=candidate.value,
            lower=lower,
            upper=upper,
            limit=limit.value,
            n=len(candidate),
            method=method,
            reason=None if outcome is Decision.PASS else f"all that is sure is {bound}",
            unit=unit_of(self.metric, relative=False),
        )


def terms_of(workload: Workload, contract: Contract) -> tuple[Term, ...]:
    """Give the terms on metrics, the workload's own first. Raises ContractError where one does not fit."""
    own = MaxDrop(workload.metric, contract.max_drop, contract.relative)
    terms = tuple(Term(_metric(limit.metric, workload), limit) for limit in (own, *contract.limits))
    for term in terms:
        if isinstance(term.limit, MaxDrop):
            require_scale(term.metric, term.limit.relative)
    return terms


def samples_needed(term: Term, reference: Samples, candidate: Samples, alpha: float) -> int | None:
    """Give the number of samples that would decide a term in four of five cases, from scores on other data.

    For right-or-wrong scores exact, from the discordance seen; else the limits seen, a half-width h at n samples,
    shrink as 1 / sqrt(n): n * (h / gap)^2 * (1 + z_0.8 / z_{1-alpha})^2. None where the data says nothing
    or the gap is zero.
    """
    from scipy.special import ndtri

    found = term.test(reference, candidate, alpha)
    limit = term.limit
    if isinstance(limit, MaxDrop):
        found = replace(found, value=max(found.value, 0.0))  # a gain on data that chose the candidate is no promise
        is_plain = term.metric.kind is MetricKind.BINARY and reference.groups is None and not limit.relative
        if is_plain and found.value < limit.max_drop:
            discordance = (found.discordant or 0) / len(reference)
            return n_needed(discordance, limit.max_drop, alpha, found.value, PROBABILITY)
    half, gap = (found.upper - found.lower) / 2, abs(found.limit - found.value)
    if gap == 0 or not np.isfinite(half):
        return None
    ratio = float(half / gap * (1 + ndtri(PROBABILITY) / ndtri(1 - alpha)))
    return math.ceil(len(reference) * ratio**2)


def physical(
    artifact: Artifact, workload: Workload, contract: Contract, latency: Latency | None, memory_bytes: int | None
) -> Iterator[LimitResult]:
    """Compare size, latency and memory with what the contract allows; what was not given is measured in new processes.

    A latency passes when the upper limit of its median is at most the limit.
    """
    if (most := contract.max_size_bytes) is not None:
        yield _exact("size in bytes", artifact.size_bytes, most)
    if (longest := contract.max_latency_ms) is not None:
        latency = latency or measure_fresh(artifact, workload.example)
        outcome = _decide(latency.low_ms, latency.high_ms, longest)
        yield LimitResult(
            what=f"median latency at most {longest:g} ms",
            outcome=outcome,
            value=latency.median_ms,
            lower=latency.low_ms,
            upper=latency.high_ms,
            limit=longest,
            reason=None if outcome is Decision.PASS else f"it lies in [{latency.low_ms:.4g}, {latency.high_ms:.4g}] ms",
            unit="ms",
        )
    if (most := contract.max_memory_bytes) is not None:
        if memory_bytes is None:
            memory_bytes = memory(artifact, workload.example).model_bytes
        yield _exact("peak memory in bytes", memory_bytes, most)


def take_slice(samples: Samples, name: str) -> Samples:
    """Give the samples of one group, taken as independent. Raises ContractError, listing the known, for another."""
    known = [] if samples.groups is None else sorted({str(group) for group in samples.groups})
    if name not in known:
        shown = ", ".join(known[:20]) or "none; give Workload(..., groups=[one name a sample])"
        raise ContractError(f"the slice {name!r} of {samples.metric.name} holds no sample; known slices: {shown}")
    assert samples.groups is not None
    return Samples(samples.metric, samples.values[samples.groups.astype(str) == name], None)


def _metric(metric: Metric | str, workload: Workload) -> Metric:
    if isinstance(metric, Metric):
        return metric
    if metric == workload.metric.name:
        return workload.metric
    raise ContractError(
        f"the contract limits {metric!r}, but the metric of {workload.name} is {workload.metric.name!r}; "
        "give the limit a metric object, such as penjing.metrics.f1()"
    )


def _decide(lower: float, upper: float, most: float) -> Decision:
    if upper <= most:
        return Decision.PASS
    return Decision.FAIL if lower > most else Decision.UNDECIDED


def _exact(what: str, value: int, most: int) -> LimitResult:
    outcome = _decide(value, value, most)
    reason = None if outcome is Decision.PASS else f"it is {value:,}"
    return LimitResult(f"{what} at most {most:,}", outcome, value, value, value, most, reason=reason, unit="bytes")
