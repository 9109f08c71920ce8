"""What to do next: a pure function of what the journal records.

    baseline -> lattice -> probe* -> recover* -> freeze -> judge* -> finish

A probe applies a recipe without its training and measures the exported file: seconds instead of minutes. Only recipes
that are faster (or smaller: whatever the contract minimises) than every gentler one go on to recovery. The same journal
gives the same plan, on any machine and at any time: elapsed time enters as what the journal says it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Event = dict[str, Any]

PROBE_SHARE = 0.25
GAIN = 0.98
WORTHWHILE = 0.95


@dataclass(frozen=True)
class Baseline:
    """Export, measure and score the original."""


@dataclass(frozen=True)
class Lattice:
    """Write down the recipes to try."""


@dataclass(frozen=True)
class Probe:
    """Apply recipe number `index` without training, export and measure it."""

    index: int


@dataclass(frozen=True)
class Recover:
    """Apply recipe number `index` whole, export, measure and score it on the search split."""

    index: int


@dataclass(frozen=True)
class Freeze:
    """Fix the candidates to be judged, from safe to aggressive; none may be added later."""

    hashes: tuple[str, ...]


@dataclass(frozen=True)
class Judge:
    """Judge a frozen candidate on the certificate split."""

    hash: str


@dataclass(frozen=True)
class Finish:
    """Nothing is left to do; `chosen` ships."""

    chosen: str | None


Action = Baseline | Lattice | Probe | Recover | Freeze | Judge | Finish


def plan(events: Sequence[Event]) -> Action:
    """Give the next action for a journal: a list of events, each a dict with its kind under "event".

    >>> plan([])
    Baseline()
    """
    by: dict[str, list[Event]] = {}
    for event in events:
        by.setdefault(event["event"], []).append(event)
    if "baseline" not in by:
        return Baseline()
    if "lattice" not in by:
        return Lattice()
    lattice = by["lattice"][-1]
    if "freeze" not in by:
        return (
            _probe(lattice, by)
            or _recover(lattice, by)
            or Freeze(finalists(by.get("candidate", []), by["baseline"][-1], lattice))
        )
    return _judge(by["freeze"][-1], by)


def _tried(by: dict[str, list[Event]], kind: str) -> set[int]:
    return {event["index"] for name in (kind, f"{kind}-failed") for event in by.get(name, [])}


def _spent(by: dict[str, list[Event]], *kinds: str) -> float:
    return float(sum(event.get("seconds", 0.0) for kind in kinds for event in by.get(kind, [])))


def _probe(lattice: Event, by: dict[str, list[Event]]) -> Probe | None:
    """Give the next recipe that trains and has not been probed, while the share of the budget for probes lasts."""
    if _tried(by, "candidate") or _spent(by, "probe", "probe-failed") > PROBE_SHARE * lattice["budget_s"]:
        return None
    tried = _tried(by, "probe")
    return next((Probe(i) for i, trains in enumerate(lattice["trains"]) if trains and i not in tried), None)


def _recover(lattice: Event, by: dict[str, list[Event]]) -> Recover | None:
    """Give the next candidate: those that need no training, then the worthwhile probes from gentle to severe."""
    tried = _tried(by, "candidate")
    for i, trains in enumerate(lattice["trains"]):
        if not trains and i not in tried:
            return Recover(i)
    done = [event for event in by.get("candidate", []) if lattice["trains"][event["index"]]]
    misses = 0
    for event in done:
        misses = misses + 1 if event["drop"] > lattice["max_drop"] else 0
    if misses >= 2:
        return None
    longest = max((event["seconds"] for event in done), default=0.0)
    kinds = ("baseline", "probe", "probe-failed", "candidate", "candidate-failed")
    if done and _spent(by, *kinds) + longest > lattice["budget_s"]:
        return None
    untrained = [
        event
        for event in by.get("candidate", [])
        if not lattice["trains"][event["index"]] and event["drop"] <= lattice["max_drop"]
    ]
    queue = worthwhile(by.get("probe", []), [*by["baseline"], *untrained], lattice["objective"])
    return next((Recover(event["index"]) for event in queue if event["index"] not in tried), None)


def worthwhile(probes: Sequence[Event], had: Sequence[Event], objective: str) -> list[Event]:
    """Give the probes that beat what is had without training and every gentler one, from gentle (most MACs) to severe.

    >>> probes = [{"name": "a", "macs": 50, "ms": 4.0}, {"name": "b", "macs": 40, "ms": 5.0}]
    >>> [probe["name"] for probe in worthwhile(probes, [{"ms": 9.0}], "ms")]
    ['a']
    """
    kept: list[Event] = []
    best = min(event[objective] for event in had)
    for probe in sorted(probes, key=lambda p: (-p["macs"], p[objective])):
        if probe[objective] < WORTHWHILE * best:
            kept.append(probe)
            best = probe[objective]
    return kept


def finalists(done: Sequence[Event], baseline: Event, lattice: Event) -> tuple[str, ...]:
    """Give the candidates to judge: better than the original, within the contract on the search split, safe ones first.

    Safe is a small drop on the search split and, among equal drops, a small gain. A candidate that is no better in the
    objective than a safer one is left out. Where none is within the contract, the one that lost least is judged all the
    same: best effort, told as such. Nothing is judged where nothing is better than the original: then that ships.
    """
    objective = lattice["objective"]
    better = [event for event in done if event[objective] < GAIN * baseline[objective]]
    safe_first = sorted(better, key=lambda event: (event["drop"], -event[objective]))
    within = [event for event in safe_first if event["drop"] <= lattice["max_drop"] and event["limits_hold"]]
    if not within:
        return tuple(event["hash"] for event in safe_first[:1])
    ladder: list[Event] = []
    for event in within:
        if not ladder or event[objective] < ladder[-1][objective]:
            ladder.append(event)
    return tuple(event["hash"] for event in ladder)


def _judge(freeze: Event, by: dict[str, list[Event]]) -> Judge | Finish:
    """Walk the frozen list in order and stop at the first that does not pass; the last that passed ships."""
    verdicts = {event["hash"]: event["outcome"] for event in by.get("verdict", [])}
    passed: str | None = None
    for name in freeze["hashes"]:
        if name not in verdicts:
            return Judge(name)
        if verdicts[name] != "pass":
            break
        passed = name
    return Finish(passed if passed is not None else next(iter(freeze["hashes"]), None))
