"""The same model, elsewhere: which runtime, number format and session options are fastest, and certified.

Nothing is trained or cut. Each choice is exported, timed in turns with the reference (ONNX Runtime, float32), and
scored on the search split; the fastest of each number format that seems to keep the contract is judged on the
certificate, from slow to fast, and the last that passes ships.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from torch import nn

from penjing.errors import PenjingError, RunError
from penjing.measuring import Latency, measure
from penjing.optimizing.sealing import seal_verdict
from penjing.recipe import Contract, Quantize
from penjing.runtimes import RUNTIMES, Artifact, export, find_runtime, missing
from penjing.techniques import apply
from penjing.training import Progress
from penjing.types import Split
from penjing.verdict import Verdict, judge_in_order, value_drop
from penjing.workload import Workload

REFERENCE = "onnxruntime"
# Where int8 arithmetic is what the file says and not what runs, it is not offered.
_INT8 = ("onnxruntime", "openvino", "executorch")


@dataclass(frozen=True)
class Choice:
    """One way to deploy the model. `numbers` is fp32, bf16, fp16 or int8.

    value, drop: of the metric on the search split, None where there is none. latency.ratio is the speed-up over the
    reference. why: what went wrong, where there are no figures. verdict: None where it was not judged.
    """

    runtime: str
    numbers: str
    options: Mapping[str, Any]
    artifact: Artifact | None = None
    latency: Latency | None = None
    value: float | None = None
    drop: float | None = None
    why: str = ""
    verdict: Verdict | None = None

    @property
    def faster(self) -> float:
        """How many times faster than the reference, which other work on the machine changes less than milliseconds."""
        return self.latency.ratio.value if self.latency is not None and self.latency.ratio is not None else 0.0

    def to_data(self) -> dict[str, Any]:
        """Give the choice as JSON values."""
        return {
            "name": self.name,
            "runtime": self.runtime,
            "numbers": self.numbers,
            "options": dict(self.options),
            "latency": self.latency and self.latency.to_data(),
            "value": self.value,
            "drop": self.drop,
            "why": self.why,
            "verdict": self.verdict and self.verdict.to_data(),
        }

    @property
    def name(self) -> str:
        """Its name in tables and folders."""
        rest = {key: value for key, value in sorted(self.options.items()) if key not in ("precision", "threads")}
        if self.numbers == "int8" and self.options.get("precision", "fp32") != "fp32":  # of what stays float
            rest["float"] = self.options["precision"]
        return "-".join([self.runtime, self.numbers, *(f"{key}={value}" for key, value in rest.items())])


@dataclass(frozen=True)
class Deployment:
    """The file that ships, what it is compared with, and all that was tried, the fastest first."""

    best: Artifact
    verdict: Verdict | None
    reference: Choice
    choices: tuple[Choice, ...]

    def to_data(self) -> dict[str, Any]:
        """Give the deployment as JSON values."""
        return {
            "best": str(self.best.path),
            "verdict": self.verdict and self.verdict.to_data(),
            "choices": [choice.to_data() for choice in (self.reference, *self.choices)],
        }

    def table(self) -> str:
        """The choices as text, one a line."""
        lines = [f"{'':<44}{'ms':>9}  {'times faster':<22}{'drop':>9}  verdict"]
        for choice in (self.reference, *self.choices):
            if choice.latency is None:
                lines.append(f"{choice.name:<44}{choice.why}")
                continue
            ratio = "reference" if choice is self.reference else str(choice.latency.ratio)
            outcome = "" if choice.verdict is None else str(choice.verdict.outcome)
            drop = "-" if choice.drop is None else f"{choice.drop:.4f}"
            lines.append(f"{choice.name:<44}{choice.latency.median_ms:>9.3g}  {ratio:<22}{drop:>9}  {outcome}")
        return "\n".join(lines)


def deploy(
    workload: Workload,
    contract: Contract,
    folder: str | Path,
    *,
    model: nn.Module | None = None,
    runtimes: Sequence[str] | None = None,
    threads: int = 1,
    seconds: float = 1.0,
    progress: Progress | None = None,
) -> Deployment:
    """Choose runtime, number format and session options for a model, by default the workload's own.

    folder: new; a folder for each choice, and `best`, a copy of what ships. runtimes: by default all that are
    installed. Int8 is tried where the workload has calibration data. Batch and shapes are those of the example.

    Raises RuntimeUnavailable for a runtime that is not installed, RunError for a folder that exists.
    """
    out = Path(folder)
    if out.exists():
        raise RunError(f"{out} exists; give the name of a new folder")
    names = [name for name, each in sorted(RUNTIMES.items()) if not missing(each)] if runtimes is None else runtimes
    for name in names:
        find_runtime(name)
    network = workload.model if model is None else model
    first = Choice(REFERENCE, "fp32", {"threads": threads})
    reference = _deployed(first, network, workload, contract, out, None, seconds)
    if reference.artifact is None:
        raise RunError(f"the model cannot be deployed in {REFERENCE}, which all else is compared with: {reference.why}")
    tried = []
    asked = list(_choices(names, network, workload, threads))
    for done, (choice, version) in enumerate(asked):
        if progress is not None:
            progress.update(done, len(asked), choice.name)
        tried.append(_deployed(choice, version, workload, contract, out, reference, seconds))
    ordered = sorted(tried, key=lambda choice: choice.faster, reverse=True)
    judged = _judged(reference, ordered, workload, contract)
    passed = [choice for choice in judged if choice.verdict is not None and choice.verdict.passed]
    best = passed[0] if passed else reference
    assert best.artifact is not None
    shutil.copytree(best.artifact.path, out / "best")
    return Deployment(Artifact.open(out / "best"), best.verdict, reference, tuple(judged))


def _choices(
    names: Sequence[str], model: nn.Module, workload: Workload, threads: int
) -> Iterator[tuple[Choice, nn.Module]]:
    """Every runtime with every combination of the options that it says are worth trying, int8 models last."""
    for name in names:
        quantized = None
        if workload.brings("calibration") and name in _INT8:
            quantized = apply(workload.with_model(model), Quantize("int8"), runtime=name).model
        known = RUNTIMES[name].known
        tried = {key: option.worth_trying for key, option in known.items() if option.worth_trying}
        for values in product(*tried.values()):
            options = {"threads": threads, **dict(zip(tried, values, strict=True))}
            yield Choice(name, options.get("precision", "fp32"), options), model
            if quantized is not None:
                yield Choice(name, "int8", options), quantized


def _deployed(
    choice: Choice,
    model: nn.Module,
    workload: Workload,
    contract: Contract,
    out: Path,
    reference: Choice | None,
    seconds: float,
) -> Choice:
    """Export a choice, time it in turns with the reference and score it; what cannot be done is said in the choice."""
    try:
        artifact = export(
            model,
            workload.example,
            out / ("reference" if reference is None else choice.name),
            choice.runtime,
            dynamic_shapes=workload.dynamic_shapes,
            options=choice.options,
        )
        against = reference.artifact if reference is not None else None
        latency = measure(artifact, workload.example, against=against, seconds=seconds)
        value = workload.evaluate(artifact.load(), Split.SEARCH)[0].value if workload.brings("search") else None
        drop = None
        if value is not None and reference is not None and reference.value is not None:
            drop = value_drop(reference.value, value, workload.metric.direction, contract.relative)
        return replace(choice, artifact=artifact, latency=latency, value=value, drop=drop)
    except PenjingError as problem:
        return replace(choice, why=f"{type(problem).__name__}: {problem}")


def _judged(reference: Choice, ordered: Sequence[Choice], workload: Workload, contract: Contract) -> list[Choice]:
    """Judge the fastest of each number format, from slow to fast, and put the verdicts into the choices."""
    assert reference.artifact is not None
    if not (workload.brings("search") and workload.brings("certificate")):
        return list(ordered)
    fastest: dict[str, Choice] = {}
    for choice in ordered:
        if choice.latency and choice.latency.ratio and choice.latency.ratio.low > 1 and _kept(choice, contract):
            fastest.setdefault(choice.numbers, choice)
    sequence = sorted(fastest.values(), key=lambda choice: choice.faster)
    artifacts = [choice.artifact for choice in sequence if choice.artifact is not None]
    verdicts = judge_in_order(reference.artifact, artifacts, workload, contract) if artifacts else []
    found = {}
    for choice, verdict in zip(sequence, verdicts, strict=False):
        assert choice.artifact is not None
        seal_verdict(choice.artifact, verdict)
        found[choice.name] = replace(choice, artifact=Artifact.open(choice.artifact.path), verdict=verdict)
    return [found.get(choice.name, choice) for choice in ordered]


def _kept(choice: Choice, contract: Contract) -> bool:
    return choice.drop is not None and choice.drop <= contract.max_drop
