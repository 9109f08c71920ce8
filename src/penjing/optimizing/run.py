"""The composition root: ask the plan what is next, do it, write it down, until nothing is left.

The journal of the run folder is the truth. Every action ends in one event; `plan` reads the events and nothing else. So
a run can be killed at any instant and goes on where it stopped, and the best model so far is always on disk.
"""

import logging
import re
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from penjing._version import __version__
from penjing.errors import RunError
from penjing.optimizing.actions import ACTIONS
from penjing.optimizing.figures import ASSUMED_DISCORDANCE, foretold
from penjing.optimizing.line import Line
from penjing.planning import Action, Baseline, Event, Finish, Freeze, Judge, Lattice, Probe, Recover, plan
from penjing.recipe import Contract, Recipe, metric_name
from penjing.reporting import compose, label, write_report
from penjing.runs import RunFolder
from penjing.runtimes import Artifact, find_runtime
from penjing.training import Progress
from penjing.types import Decision, Split, Status
from penjing.verdict import Verdict, power, terms_of
from penjing.workload import Workload

logger = logging.getLogger("penjing")


@dataclass(frozen=True)
class Run:
    """What `optimize` gives back.

    best: the artefact that ships (the original's own export where nothing was better). verdict: of that artefact, None
    if nothing could be judged. front: one record for each model that was measured and scored.
    """

    folder: Path
    best: Artifact
    verdict: Verdict | None
    front: tuple[Event, ...]
    report_path: Path

    def summary(self) -> str:
        """Say in a few lines what came out."""
        sentence = (
            self.verdict.sentence()
            if self.verdict is not None
            else "No candidate is better than the original, which stays."
        )
        return f"{sentence}\nbest model: {self.best.path}\nreport: {self.report_path}"


def optimize(
    workload: Workload,
    contract: Contract,
    *,
    runtime: str = "onnxruntime",
    budget: str | float = "30m",
    out: str | Path = "runs/name",
    resume: bool = True,
    seed: int = 0,
    cluster: str | None = None,
    progress: Progress | None = None,
) -> Run:
    """Search for the model that the contract wants fastest or smallest, and certify it.

    The search looks at the search split only. At its end a short list, from safe to aggressive, is frozen and judged in
    that order on the certificate; the last that passes ships. budget: time for the search, such as "90s", "30m", "2h",
    or seconds. out: the run folder; one left by the same run is resumed, one of another run is a RunError.

    Raises ContractError, WorkloadError or RuntimeUnavailable before any work if the parts do not fit together.
    """
    if cluster is not None:
        raise RunError(f"cluster={cluster!r}: search over several machines is not part of this version; leave it out")
    budget_s = seconds(budget)
    find_runtime(runtime)
    terms_of(workload, contract)
    logger.info("%s", told_power(workload, contract))
    with RunFolder.open(out, identity(workload, contract, runtime, seed), resume=resume) as folder:
        line = Line(workload, contract, runtime, folder, _begin(folder, budget_s), seed, progress)
        while not isinstance(action := plan(line.events()), Finish):
            logger.info("%s", _say(line, action))
            ACTIONS[type(action)](line, action)
            folder.clear_scratch()  # it served that action alone
        return _finish(line, action)


def seconds(budget: str | float) -> float:
    """Read a time: a number of seconds, or text such as "90s", "30m", "1.5h".

    >>> seconds("1.5h"), seconds(20)
    (5400.0, 20.0)
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([smh]?)\s*", str(budget))
    if match is None or not float(match[1]) > 0:
        raise RunError(f"budget={budget!r} is no time; write '90s', '30m' or '2h'")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def told_power(workload: Workload, contract: Contract) -> str:
    """Say, before any training, what the certificate split can certify."""
    n = workload.size(Split.CERTIFICATE)
    if not foretold(workload, contract):
        return f"The certificate has {n:,} samples; what they certify depends on the scores, which no one has seen yet."
    return power(n, ASSUMED_DISCORDANCE, contract.alpha, max_drop=contract.max_drop or None).sentence()


def _begin(folder: RunFolder, budget_s: float) -> float:
    """Give a new run a name of its own and a budget; a resumed one keeps both. Returns the budget, in seconds."""
    begun = next((event for event in folder.journal.events() if event["event"] == "begin"), None)
    if begun is None:
        begun = folder.journal.append("begin", run=uuid.uuid4().hex, budget_s=budget_s)
    if begun["budget_s"] != budget_s:
        logger.warning("this run was begun with a budget of %g s, which stays", begun["budget_s"])
    return float(begun["budget_s"])


def identity(workload: Workload, contract: Contract, runtime: str, seed: int) -> dict[str, Any]:
    """Say what makes a run folder this run's: the model, the data, the terms, the runtime, the seed and the version."""
    terms = {**asdict(contract), "limits": [_limit(limit) for limit in contract.limits]}
    return {
        "model": workload.model_fingerprint(),
        "example inputs": str(workload.example),
        "training samples": workload.train_size,
        "search data": workload.fingerprint(Split.SEARCH),
        "certificate data": workload.fingerprint(Split.CERTIFICATE),
        "metric": workload.metric.name,
        "contract": terms,
        "runtime": runtime,
        "seed": seed,
        "version": __version__,
    }


def _limit(limit: Any) -> dict[str, Any]:
    return {**{k: v for k, v in vars(limit).items() if k != "metric"}, "metric": metric_name(limit.metric)}


SAYS: dict[type[Action], str] = {
    Baseline: "the original: export, measure, score",
    Lattice: "writing down what to try",
    Probe: "measure the shapes of",
    Recover: "train and measure",
    Freeze: "the search is over; the candidates to be judged are frozen",
    Judge: "judge on the certificate:",
}


def _say(line: Line, action: Action) -> str:
    """Name the action that comes next, for whoever watches."""
    says = SAYS[type(action)]
    if isinstance(action, Probe | Recover):
        return f"{says} {label(line.recipe(action.index))}"
    if isinstance(action, Judge):
        tried = (event for event in line.events() if event["event"] == "candidate" and event["hash"] == action.hash)
        return f"{says} {label(Recipe.from_data(next(tried)['recipe']))}"
    return says


def _finish(line: Line, action: Finish) -> Run:
    verdicts = {e["hash"]: Verdict.from_data(e["verdict"]) for e in line.events() if e["event"] == "verdict"}
    chosen = action.chosen or "baseline"
    verdict = verdicts.get(chosen)
    passed = verdict is not None and verdict.outcome is Decision.PASS
    line.folder.set_best(chosen, Status.CERTIFIED if passed else Status.SEARCH_ESTIMATE)
    if not any(event["event"] == "finish" for event in line.events()):
        line.write("finish", chosen=chosen)
    line.folder.clear_scratch()
    events = line.events()
    report = write_report(line.folder.path, compose(events))
    front = tuple(event for event in events if event["event"] in ("baseline", "candidate"))
    return Run(line.folder.path, line.artifact(chosen), verdict, front, report)
