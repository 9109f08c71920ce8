"""What the plan can ask for: each action does its work and ends in one event of the journal."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from torch import nn

from penjing._version import __version__
from penjing.errors import PenjingError
from penjing.measuring import Latency, machine, measure, memory
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
    without_recovery,
)
from penjing.profiling import Profile, profile
from penjing.recipe import Contract, Finetune, Recipe
from penjing.runs import RunFolder, candidate_hash
from penjing.runtimes import Artifact, export
from penjing.storage import atomic_folder, is_disk_full
from penjing.structure import capture, couple
from penjing.techniques import TECHNIQUES, Outcome, apply
from penjing.techniques.sparsify import copy_pruned
from penjing.training import Hook, LoopState, Progress, finetune
from penjing.types import Direction, Split, Status
from penjing.verdict import judge, power
from penjing.workload import Workload

ASSUMED_DISCORDANCE = 0.05
TIMED_STEPS = 16

logger = logging.getLogger("penjing")


@dataclass(frozen=True)
class Line:
    """What every action of one run shares."""

    workload: Workload
    contract: Contract
    runtime: str
    folder: RunFolder
    budget_s: float
    seed: int
    progress: Progress | None = None

    def events(self) -> list[Event]:
        """Give all that the journal holds."""
        return self.folder.journal.events()

    def last(self, kind: str) -> Event:
        """Give the newest event of a kind."""
        return next(event for event in reversed(self.events()) if event["event"] == kind)

    def write(self, kind: str, **data: Any) -> None:
        """End an action."""
        self.folder.journal.append(kind, **data)

    def recipe(self, index: int) -> Recipe:
        """Give a recipe of the lattice."""
        return Recipe.from_data(self.last("lattice")["recipes"][index])

    def artifact(self, name: str) -> Artifact:
        """Open what was exported for a candidate."""
        return Artifact.open(self.folder.candidate(name) / "artifact")


def baseline(line: Line, _: Action) -> None:
    """Export, measure and score the original; tell what the certificate can certify."""
    started = time.monotonic()
    workload = line.workload
    found = profile(workload.model, workload.example)
    coupling = couple(capture(workload.model, workload.example))
    figures = _deployed(line, "baseline", workload.model, None)
    line.folder.set_best("baseline", Status.SEARCH_ESTIMATE)
    line.write(
        "baseline",
        hash="baseline",
        title=workload.name or type(workload.model).__name__,
        macs=found.macs,
        params=found.params,
        layers=_layers(found),
        frozen=[[f"{part.parameter}, dimension {part.dim}", part.reason] for part in coupling.frozen],
        prunable=any(group.prunable and group.exact for group in coupling.groups),
        epoch_s=epoch_seconds(workload) if workload.brings("train") else None,
        power=asdict(power(workload.size(Split.CERTIFICATE), ASSUMED_DISCORDANCE, line.contract.alpha)),
        **_terms(line),
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
    )
    line.write(
        "lattice",
        recipes=[recipe.to_data() for recipe in recipes],
        trains=[recipe != without_recovery(recipe) for recipe in recipes],
        max_drop=line.contract.max_drop,
        objective=objective(line.contract),
        budget_s=line.budget_s,
    )


def probe(line: Line, action: Probe) -> None:
    """Apply a recipe without training; export and measure what comes out, and throw it away."""
    recipe = without_recovery(line.recipe(action.index))

    def work() -> dict[str, Any]:
        scratch = line.folder.scratch(f"probe-{action.index}")
        outcome, found = _applied(line, recipe, scratch)
        artifact = export(outcome.model, line.workload.example, scratch / "artifact", line.runtime)
        latency = measure(artifact, line.workload.example, against=line.artifact("baseline"), seconds=1.0)
        figures = {"macs": found.macs, "size_bytes": artifact.size_bytes, "relative_latency": relative(latency)}
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
            "limits_hold": _limits_hold(line.contract, figures),
            "macs": found.macs,
            "params": found.params,
            "layers": _layers(found),
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
    """Judge a frozen candidate on the certificate split."""
    reference, candidate = line.artifact("baseline"), line.artifact(action.hash)
    verdict = judge(reference, candidate, line.workload, line.contract, family=line.folder.identity_hash)
    data = {**verdict.to_data(), "sentence": verdict.sentence()}
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
    before = float(line.last("baseline")["value"])
    lost = before - value if line.workload.metric.direction is Direction.HIGHER else value - before
    return lost / abs(before) if line.contract.relative and before else lost


def epoch_seconds(workload: Workload) -> float:
    """Time a few steps of the original's recovery, its own teacher beside it, and give the seconds of a whole epoch."""
    clock = _StepClock()
    share = min(1.0, TIMED_STEPS / workload.train_steps)
    finetune(copy_pruned(workload.model), workload, Finetune(epochs=share), teacher=workload.model, hooks=(clock,))
    return median(clock.seconds) * workload.train_steps


class _StepClock(Hook):
    """Times each step of a training."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._started = 0.0

    def before_step(self, state: LoopState) -> None:
        self._started = time.monotonic()

    def after_step(self, state: LoopState) -> None:
        self.seconds.append(time.monotonic() - self._started)


def _applied(line: Line, recipe: Recipe, scratch: Path) -> tuple[Outcome, Profile]:
    """Apply a recipe; its static figures are those before the steps that close it, which leave no modules to count."""

    def applied(recipe: Recipe) -> Outcome:
        return apply(line.workload, recipe, seed=line.seed, resume_dir=scratch, progress=line.progress)

    before = Recipe([step for step in recipe if not TECHNIQUES[type(step)].last])
    found = profile(applied(before).model, line.workload.example)
    return applied(recipe), found


def relative(latency: Latency) -> float:
    """Give the time as a share of that of the model it was measured against, 1 if it was measured alone."""
    return 1 / latency.ratio.value if latency.ratio is not None else 1.0


def _layers(found: Profile) -> list[dict[str, Any]]:
    """Give the layers that compute, with their widths: dimension 1 of a convolution's output, else the last."""
    rows = []
    for layer in found.layers:
        if layer.macs and layer.output_shape:
            width = layer.output_shape[1 if layer.type.startswith("Conv") else -1]
            rows.append(
                {"name": layer.name, "type": layer.type, "width": width, "params": layer.params, "macs": layer.macs}
            )
    return rows


def _terms(line: Line) -> dict[str, Any]:
    """Give what a report needs to know of the run besides its figures."""
    contract, metric, here = line.contract, line.workload.metric, machine()
    return {
        "runtime": line.runtime,
        "metric": {"name": metric.name, "direction": str(metric.direction), "low": metric.low, "high": metric.high},
        "contract": {
            "describe": contract.describe(metric.name, points=(metric.low, metric.high) == (0, 1)),
            "objective": objective(contract),
            "max_drop": contract.max_drop,
            "relative": contract.relative,
            "alpha": contract.alpha,
            "max_latency_ms": contract.max_latency_ms,
        },
        "machine": {
            "processor": here.cpu,
            "instructions": " ".join(here.instructions),
            "cores": here.cores,
            "memory": f"{here.memory_bytes / 2**30:.1f} GiB",
            "system": here.system,
            "fingerprint": here.fingerprint,
        },
        "versions": {"penjing": __version__, **here.versions},
        "hashes": {
            "model": line.workload.model_fingerprint(),
            "search data": line.workload.fingerprint(Split.SEARCH),
            "certificate data": line.workload.fingerprint(Split.CERTIFICATE),
        },
        "commands": {"go on": f"penjing resume {line.folder.path}", "report": f"penjing report {line.folder.path}"},
    }


def _deployed(line: Line, name: str, model: nn.Module, outcome: Outcome | None) -> dict[str, Any]:
    """Export a model into its candidate folder (unless a killed run has left it there), measure it and score it."""
    home, example = line.folder.candidate(name), line.workload.example
    if not home.exists():
        with atomic_folder(home) as temporary:
            if outcome is not None:
                outcome.save(temporary / "model", compact=True)
            export(model, example, temporary / "artifact", line.runtime)
    artifact = line.artifact(name)
    against = line.artifact("baseline") if name != "baseline" else None
    latencies = {
        str(n): measure(artifact, example.with_batch(n), against=against) for n in sorted({1, example.batch_size})
    }
    (samples,) = line.workload.evaluate(artifact.load(), Split.SEARCH)
    return {
        "value": samples.value,
        "n": len(samples),
        "batch": example.batch_size,
        "latency_ms": latencies[str(example.batch_size)].median_ms,
        "relative_latency": relative(latencies[str(example.batch_size)]),
        "latencies": {n: latency.to_data() for n, latency in latencies.items()},
        "size_bytes": artifact.size_bytes,
        "memory_bytes": memory(artifact, example).model_bytes,
    }


def _limits_hold(contract: Contract, figures: Mapping[str, Any]) -> bool:
    limits = {"latency_ms": contract.max_latency_ms, "size_bytes": contract.max_size_bytes}
    limits["memory_bytes"] = contract.max_memory_bytes
    return all(limit is None or figures[name] <= limit for name, limit in limits.items())


def _attempt(line: Line, kind: str, index: int, work: Callable[[], dict[str, Any]]) -> None:
    """Do the work of one recipe and write down what came out; what cannot be done is an event too, not the end.

    A disk that fails ends the run instead, which goes on once there is space: the recipe is not to blame.
    """
    started = time.monotonic()
    try:
        figures = work()
    except PenjingError as problem:
        if _is_of_the_disk(problem):
            raise
        logger.warning("recipe %d: %s", index, problem)
        line.write(f"{kind}-failed", index=index, why=str(problem), seconds=time.monotonic() - started)
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
    done = [*(event for event in line.events() if event["event"] == "candidate"), new]
    within = [event for event in done if event["limits_hold"] and event["drop"] <= line.contract.max_drop]
    if within:
        best = min(within, key=lambda event: event[objective(line.contract)])
        line.folder.set_best(best["hash"], Status.SEARCH_ESTIMATE)
