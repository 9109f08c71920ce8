"""What the plan can ask for: each action does its work and ends in one event of the journal."""

import logging
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from typing import Any

from torch import nn

from penjing._version import __version__
from penjing.measuring import measure, memory
from penjing.measuring.paired import quick_ratio
from penjing.optimizing.figures import epoch_seconds, facts, layers, relative
from penjing.optimizing.line import Line
from penjing.optimizing.sealing import seal, seal_verdict
from penjing.planning import (
    Action,
    Baseline,
    Event,
    Freeze,
    Judge,
    Lattice,
    Probe,
    Recover,
    candidates,
    objective,
    shape_of,
    trains,
)
from penjing.profiling import Profile, profile_captured
from penjing.recipe import Recipe
from penjing.runs import candidate_hash
from penjing.runtimes import Artifact
from penjing.storage import atomic_folder, is_disk_full
from penjing.structure import blocks, couple
from penjing.techniques import TECHNIQUES, Outcome, apply
from penjing.types import Split, Status
from penjing.verdict import judge, terms_of, value_drop

logger = logging.getLogger("penjing")

PROBE_SECONDS = 0.5
"""For which each of a pair is timed."""


def baseline(line: Line, _: Action) -> None:
    """Export, measure and score the original; tell what the certificate can certify."""
    started = time.monotonic()
    workload = line.workload
    captured = line.captured(workload.model)
    found = profile_captured(workload.model, captured, workload.example)
    coupling = couple(captured)
    figures = _deployed(line, "baseline", workload.model, None)
    line.folder.set_best("baseline", Status.SEARCH_ESTIMATE)
    line.write(
        "baseline",
        hash="baseline",
        title=workload.name,
        macs=found.macs,
        params=found.params,
        layers=layers(found, None),
        frozen=[[f"{part.parameter}, dimension {part.dim}", part.reason] for part in coupling.frozen],
        prunable=any(group.prunable and group.exact for group in coupling.groups),
        blocks=len(blocks.layers(blocks.find_blocks(captured))),
        epoch_s=epoch_seconds(workload) if workload.brings("train") else None,
        **facts(line),
        seconds=time.monotonic() - started,
        **figures,
    )


def lattice(line: Line, _: Action) -> None:
    """Write down the recipes to try, and all that the plan needs to know to order them."""
    base = line.last("baseline")
    recipes = candidates(
        budget_s=line.budget_s,
        epoch_s=base["epoch_s"],
        calibration=line.workload.brings("calibration"),
        prunable=base["prunable"],
        blocks=base["blocks"],
    )
    line.write(
        "lattice",
        recipes=[recipe.to_data() for recipe in recipes],
        trains=[trains(recipe) for recipe in recipes],
        max_drop=line.contract.max_drop,
        objective=objective(line.contract),
        budget_s=line.budget_s,
    )


def probe(line: Line, action: Probe) -> None:
    """Bring the model into a recipe's shape; export and measure what comes out, and throw it away."""
    recipe = shape_of(line.recipe(action.index))

    def work() -> dict[str, Any]:
        scratch = line.folder.scratch(f"probe-{action.index}")
        outcome, found = _applied(line, recipe, scratch)
        artifact = line.export(outcome.model, scratch / "artifact")
        example = line.workload.example  # each loaded once: a glance, for a candidate is measured anew
        ratio = quick_ratio((artifact, example), (line.artifact("baseline"), example), PROBE_SECONDS)
        figures = {"macs": found.macs, "size_bytes": artifact.size_bytes, "relative_latency": 1 / ratio.value}
        if line.contract.minimize == "memory":
            figures["memory_bytes"] = memory(artifact, line.workload.example).model_bytes
        return figures

    _attempt(line, "probe", action.index, work)


def recover(line: Line, action: Recover) -> None:
    """Apply a recipe whole; export, measure and score the model on the search split."""
    recipe = line.recipe(action.index)
    name = candidate_hash(
        weights=line.workload.model_fingerprint(),
        recipe=recipe.to_data(),
        data=line.workload.fingerprint(Split.SEARCH),
        runtime=line.runtime,
        seed=line.seed,
        version=__version__,
    )

    def work() -> dict[str, Any]:
        outcome, found = _applied(line, recipe, line.folder.scratch(name))
        figures = _deployed(line, name, outcome.model, outcome)
        done = {
            "hash": name,
            "recipe": recipe.to_data(),
            "drop": drop_of(line, figures["value"]),
            "limits_hold": _limits_hold(line, name, figures),
            "macs": found.macs,
            "params": found.params,
            "layers": layers(found, outcome.model),
            "log": [asdict(row) for row in outcome.log],
            **figures,
        }
        _point_at_best(line, done)
        return done

    _attempt(line, "candidate", action.index, work)


def freeze(line: Line, action: Freeze) -> None:
    """Fix the list to be judged, before anyone looks at the certificate."""
    line.write("freeze", hashes=list(action.hashes))


def judge_one(line: Line, action: Judge) -> None:
    """Judge a frozen candidate on the certificate split, and write the verdict into its manifest."""
    reference, candidate = line.artifact("baseline"), line.artifact(action.hash)
    verdict = judge(reference, candidate, line.workload, line.contract, family=line.last("begin")["run"])
    data = seal_verdict(candidate, verdict)
    line.write("verdict", hash=action.hash, outcome=str(verdict.outcome), verdict=data)


ACTIONS: Mapping[type[Action], Callable[[Line, Any], None]] = {
    Baseline: baseline,
    Lattice: lattice,
    Probe: probe,
    Recover: recover,
    Freeze: freeze,
    Judge: judge_one,
}


def drop_of(line: Line, value: float) -> float:
    """Give what was lost against the baseline on the search split, in the contract's terms."""
    before, direction = float(line.last("baseline")["value"]), line.workload.metric.direction
    return value_drop(before, value, direction, line.contract.relative)


def _applied(line: Line, recipe: Recipe, scratch: Path) -> tuple[Outcome, Profile]:
    """Apply a recipe; its static figures are those before the steps that close it, which leave no modules to count."""

    def applied(recipe: Recipe) -> Outcome:
        return apply(
            line.workload, recipe, runtime=line.runtime, seed=line.seed, resume_dir=scratch, progress=line.progress
        )

    before = applied(Recipe(takewhile(lambda step: not TECHNIQUES[type(step)].last, recipe))).model
    return applied(recipe), profile_captured(before, line.captured(before), line.workload.example)


def _deployed(line: Line, name: str, model: nn.Module, outcome: Outcome | None) -> dict[str, Any]:
    """Export a model into its candidate folder (unless a killed run has left it there), measure it and score it."""
    home, example = line.folder.candidate(name), line.workload.example
    if not home.exists():
        with atomic_folder(home) as temporary:
            if outcome is not None:
                outcome.save(temporary / "model", compact=True)
            exported = line.export(model, temporary / "artifact")
            if outcome is not None:
                seal(exported, recipe=outcome.recipe.to_data(), surgery_proof=outcome.surgery_proof)
    artifact = line.artifact(name)
    against = line.artifact("baseline") if name != "baseline" else None
    batches = sorted({1, example.batch_size}) if _takes_any_batch(artifact) else [example.batch_size]
    latencies = {str(n): measure(artifact, example.with_batch(n), against=against) for n in batches}
    (samples,) = line.workload.evaluate(artifact.load(), Split.SEARCH)
    usual = latencies[str(example.batch_size)]
    return {
        "value": samples.value,
        "n": len(samples),
        "batch": example.batch_size,
        "latency_ms": usual.median_ms,
        "relative_latency": relative(usual),
        "latencies": {n: latency.to_data() for n, latency in latencies.items()},
        "size_bytes": artifact.size_bytes,
        "memory_bytes": memory(artifact, example).model_bytes,
    }


def _takes_any_batch(artifact: Artifact) -> bool:
    """Whether dimension 0 of the first input is free: a size that is a name, not a number."""
    return isinstance(artifact.manifest.inputs[0]["shape"][0], str)


def _limits_hold(line: Line, name: str, figures: Mapping[str, Any]) -> bool:
    """Whether a candidate keeps every further term of the contract, by its point estimates on the search split."""
    contract = line.contract
    most = {"latency_ms": contract.max_latency_ms, "size_bytes": contract.max_size_bytes}
    most["memory_bytes"] = contract.max_memory_bytes
    if not all(limit is None or figures[figure] <= limit for figure, limit in most.items()):
        return False
    _, *terms = terms_of(line.workload, contract)
    if not terms:
        return True
    metrics = list(dict.fromkeys(term.metric for term in terms))
    old, new = (
        dict(zip(metrics, line.workload.evaluate(line.artifact(each).load(), Split.SEARCH, metrics), strict=True))
        for each in ("baseline", name)
    )
    return all(term.seems_kept(old[term.metric], new[term.metric]) for term in terms)


def _attempt(line: Line, kind: str, index: int, work: Callable[[], dict[str, Any]]) -> None:
    """Do the work of one recipe and write down what came out; what cannot be done is an event too, not the end.

    A disk that fails ends the run instead, which goes on once there is space: the recipe is not to blame.
    """
    started = time.monotonic()
    try:
        figures = work()
    except Exception as problem:  # a recipe may fail in any way, out of memory included; the others go on
        if _is_of_the_disk(problem):
            raise
        logger.warning("recipe %d: %s", index, problem)
        logger.debug("%s", traceback.format_exc())
        why = f"{type(problem).__name__}: {problem}"
        line.write(f"{kind}-failed", index=index, why=why, seconds=time.monotonic() - started)
        return
    line.write(kind, index=index, seconds=time.monotonic() - started, **figures)


def _is_of_the_disk(problem: BaseException | None) -> bool:
    while problem is not None:
        if isinstance(problem, OSError) or is_disk_full(problem):
            return True
        problem = problem.__cause__
    return False


def _point_at_best(line: Line, new: Event) -> None:
    """Point `best` at the model that would ship if the run ended with this candidate, before it is written down."""
    done = [*(event for event in line.events() if event["event"] in ("baseline", "candidate")), new]
    within = [
        event for event in done if event.get("limits_hold", True) and event.get("drop", 0) <= line.contract.max_drop
    ]
    best = min(within, key=lambda event: event[objective(line.contract)])
    line.folder.set_best(best["hash"], Status.SEARCH_ESTIMATE)
