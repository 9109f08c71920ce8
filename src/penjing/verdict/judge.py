"""The judgement: deployed files, in their runtime, on data that no decision has looked at.

pass: the upper limit of the drop is at most what the contract allows, and every further term holds. fail: the lower
limit is above it, or a further term is violated. Else undecided, with the number of samples that would decide it.
All terms must hold together, so each is tested at the full alpha (an intersection-union test).
"""

import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import cache

from penjing.errors import ContractError, WorkloadError
from penjing.measuring import Latency
from penjing.recipe import Contract
from penjing.runtimes import Artifact, Session
from penjing.types import Decision, Interval, Split
from penjing.verdict.ledger import Ledger
from penjing.verdict.noninferiority import unit_labels, value_limits
from penjing.verdict.terms import Term, physical, samples_needed, terms_of
from penjing.verdict.verdict import LimitResult, Verdict, unit_of
from penjing.workload import Metric, Samples, Workload

Scores = Callable[[Split], dict[Metric, Samples]]


def judge(
    reference: Artifact | Session,
    candidate: Artifact | Session,
    workload: Workload,
    contract: Contract,
    *,
    latency: Latency | None = None,
    memory_bytes: int | None = None,
    ledger: Ledger | None = None,
    family: str | None = None,
    seed: int = 0,
) -> Verdict:
    """Judge a deployed candidate against a deployed reference on the certificate split.

    latency, memory_bytes: of the candidate, as `penjing.measuring.measure_fresh` and `memory` give them; measured here
    if the contract limits them and none is given. The look is written to the `ledger` before a score is computed; looks
    of one `family` (a run with its resumptions) count once. seed: of the resampling.

    Raises ContractError for anything but deployed models and for terms that do not fit the metric, ArtifactError for a
    ledger that cannot be written.
    """
    (verdict,) = _verdicts(reference, [candidate], workload, contract, [latency], [memory_bytes], ledger, family, seed)
    return verdict


def judge_in_order(
    reference: Artifact | Session,
    candidates: Sequence[Artifact | Session],
    workload: Workload,
    contract: Contract,
    *,
    latencies: Sequence[Latency | None] | None = None,
    memory_bytes: Sequence[int | None] | None = None,
    ledger: Ledger | None = None,
    family: str | None = None,
    seed: int = 0,
) -> list[Verdict]:
    """Judge candidates from safe to aggressive, each at the full alpha, and stop at the first that does not pass.

    The last that passed ships. The order is frozen before the certificate is looked at and nothing is tried after a
    failure, so the probability that any candidate passes which loses too much stays at alpha: a fixed-sequence test
    (Maurer, Hothorn and Lehmacher 1995, in Biometrie in der chemisch-pharmazeutischen Industrie 6:3-18). The list ends
    with the first verdict that is no pass; the whole sequence is one look. Arguments as for `judge`, one a candidate.
    """
    none = [None] * len(candidates)
    return list(
        _verdicts(
            reference, candidates, workload, contract, latencies or none, memory_bytes or none, ledger, family, seed
        )
    )


def _verdicts(
    reference: Artifact | Session,
    candidates: Sequence[Artifact | Session],
    workload: Workload,
    contract: Contract,
    latencies: Sequence[Latency | None],
    memory_bytes: Sequence[int | None],
    ledger: Ledger | None,
    family: str | None,
    seed: int,
) -> Iterator[Verdict]:
    _require_deployed("reference", reference)
    for candidate in candidates:
        _require_deployed("candidate", candidate)
    if len(latencies) != len(candidates) or len(memory_bytes) != len(candidates):
        raise ContractError(
            f"judge_in_order: {len(candidates)} candidates, but {len(latencies)} latencies and {len(memory_bytes)} "
            "memory_bytes; give one of each a candidate, None where it is unknown"
        )
    terms = terms_of(workload, contract)
    # Written first, so that not even a run that dies while scoring has looked unseen.
    looks = (ledger or Ledger()).look(
        workload.fingerprint(Split.CERTIFICATE),
        family or uuid.uuid4().hex,
        f"{workload.name}: {contract.describe()}; {len(candidates)} candidate(s)",
    )
    base = _scores(_open(reference), workload, terms)
    for candidate, latency, memory in zip(candidates, latencies, memory_bytes, strict=True):
        session = _open(candidate)
        results = list(physical(session.artifact, workload, contract, latency, memory))
        verdict = _verdict(
            terms, base, _scores(session, workload, terms), session.artifact, workload, contract, results, looks, seed
        )
        yield verdict
        if not verdict.passed:
            return


def _verdict(
    terms: Sequence[Term],
    reference: Scores,
    candidate: Scores,
    artifact: Artifact,
    workload: Workload,
    contract: Contract,
    physical_results: list[LimitResult],
    looks: int,
    seed: int,
) -> Verdict:
    alpha, metric = contract.alpha, workload.metric
    old, new = reference(Split.CERTIFICATE), candidate(Split.CERTIFICATE)
    main, *further = [term.test(old[term.metric], new[term.metric], alpha, seed) for term in terms]
    limits = (*further, *physical_results)
    undecided = [t for t, r in zip(terms, (main, *further), strict=True) if r.outcome is Decision.UNDECIDED]
    reasons = [main.reason, *(f"{result.what}: {result.reason}" for result in limits if result.reason)]
    old_limits, new_limits = (value_limits(samples[metric], alpha / 2, seed=seed) for samples in (old, new))
    return Verdict(
        outcome=_together([main, *limits]),
        metric=metric.name,
        drop=main.value,
        drop_lower=main.lower,
        drop_upper=main.upper,
        max_drop=contract.max_drop,
        relative=contract.relative,
        unit=unit_of(metric, contract.relative),
        n=len(old[metric]),
        n_needed=_needed(undecided, reference, candidate, workload, len(old[metric]), alpha),
        discordant=main.discordant or 0,
        alpha=alpha,
        looks=looks,
        method=main.method or "none",
        reference_value=old[metric].value,
        reference_interval=Interval(old_limits.lower, old_limits.upper, contract.confidence),
        candidate_value=new[metric].value,
        candidate_interval=Interval(new_limits.lower, new_limits.upper, contract.confidence),
        limits=limits,
        reasons=tuple(reason for reason in reasons if reason),
        assumptions=tuple(_assumptions(artifact, old[metric], main.method or "", looks)),
    )


def _together(results: Sequence[LimitResult]) -> Decision:
    outcomes = {result.outcome for result in results}
    return next((worst for worst in (Decision.FAIL, Decision.UNDECIDED) if worst in outcomes), Decision.PASS)


def _needed(
    undecided: Sequence[Term], reference: Scores, candidate: Scores, workload: Workload, n: int, alpha: float
) -> int | None:
    """Give the samples that would decide every undecided term, from the search split: the certificate plans nothing."""
    terms = [term for term in undecided if term.limit.slice is None]
    if not terms or not _has_search(workload):
        return None
    old, new = reference(Split.SEARCH), candidate(Split.SEARCH)
    needed = [samples_needed(term, old[term.metric], new[term.metric], alpha) for term in terms]
    known = [number for number in needed if number is not None]
    # This n did not decide, whatever the search split says.
    return max(n + 1, *known) if len(known) == len(needed) else None


def _has_search(workload: Workload) -> bool:
    try:
        return workload.size(Split.SEARCH) > 0
    except WorkloadError:  # evaluation data was given as a certificate only
        return False


def _assumptions(artifact: Artifact, samples: Samples, method: str, looks: int) -> Iterator[str]:
    yield f"It covers this file, {artifact.path}, as {artifact.runtime} runs it with the options of its manifest."
    yield "It covers the distribution that the certificate samples were drawn from, and no other."
    yield "It does not cover other retraining seeds: the same recipe trained again is another model."
    if samples.groups is None:
        yield "Samples are taken to be independent of each other; give groups= where they are not."
    else:
        clusters = int(unit_labels(samples.groups, len(samples)).max()) + 1
        yield f"The {clusters} clusters given by groups= are taken to be independent; samples within one need not be."
    if "bootstrap" in method:
        yield "Losses far larger than any that was seen are taken to be too rare to matter."
    if looks > 1:
        yield (
            f"This is look number {looks} at this certificate data; the confidence holds for a single look, "
            "so fresh data is worth more than this verdict."
        )


def _scores(session: Session, workload: Workload, terms: Sequence[Term]) -> Scores:
    """Give the function from a split to the samples of every metric, which scores each split once at most."""
    metrics = list(dict.fromkeys(term.metric for term in terms))

    @cache
    def scores(split: Split) -> dict[Metric, Samples]:
        return dict(zip(metrics, workload.evaluate(session, split, metrics), strict=True))

    return scores


def _open(model: Artifact | Session) -> Session:
    return model.load() if isinstance(model, Artifact) else model


def _require_deployed(what: str, model: object) -> None:
    if not isinstance(model, Artifact | Session):
        raise ContractError(
            f"judge: the {what} is a {type(model).__name__}; what is deployed is what is judged, so write it with "
            "penjing.export(...) first and give that Artifact, or the Session of penjing.load(...)"
        )
