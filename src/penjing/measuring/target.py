"""The machine as a target: a latency model of one network in one runtime, fitted to narrower versions of itself."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import fx, nn

from penjing.errors import PenjingError, RunError
from penjing.measuring.cache import keep, read_cached
from penjing.measuring.features import features
from penjing.measuring.latency_model import LatencyModel, Sample, fit
from penjing.measuring.paired import quick_ratio, session_call, threads_of
from penjing.measuring.timing import time_blocks, undisturbed
from penjing.measuring.variants import variants
from penjing.recipe.target import MakeTarget, Shapes, register_targets
from penjing.runtimes import Artifact, export, find_runtime
from penjing.storage import fingerprint
from penjing.structure import Coupling, couple, cut
from penjing.training import Progress
from penjing.workload import ExampleInputs

BATCH, MOST = 12, 48
"""Variants are measured by the dozen, four dozens at most, until the error is small."""
GOOD = 0.05
_SECONDS = 0.25


@dataclass(frozen=True)
class MeasuredTarget:
    """A runtime on this machine, as one model sees it. Make it with `measured_target`.

    model: predicts the latency as a share of the whole network's. baseline_ms: what that one took. A folder of its own
    keeps the whole network deployed, so that every other is timed in turns with it.
    """

    name: str
    options: Mapping[str, Any]
    example: ExampleInputs
    model: LatencyModel
    baseline_ms: float
    baseline: Artifact
    _folder: tempfile.TemporaryDirectory[str] = field(repr=False)

    def latency_of(self, graph: fx.Graph) -> Callable[[Shapes], float]:
        """The latency of a graph, in milliseconds, as a function of its nodes' output shapes."""
        return lambda shapes: self.baseline_ms * self.model.predict(features(graph, shapes))

    def measured_ms(self, model: nn.Module) -> float:
        """Export a model and time it in turns with the whole network."""
        with tempfile.TemporaryDirectory() as folder:
            other = export(model, self.example, Path(folder) / "model", self.name, options=self.options)
            ratio = quick_ratio((other, self.example), (self.baseline, self.example), _SECONDS)
        return self.baseline_ms / ratio.value

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.baseline_ms:.3g} ms, predicted within {self.model.median_error:.1%} (median) of "
            f"{self.model.samples} networks measured"
        )


def measured_target(
    model: nn.Module,
    example_inputs: Any,
    runtime: str = "onnxruntime",
    *,
    options: Mapping[str, Any] | None = None,
    most: int = MOST,
    seed: int = 0,
    progress: Progress | None = None,
) -> MeasuredTarget:
    """Measure how the latency of a model depends on its widths, in a runtime, at the batch size of the example.

    The model is cut at random places, exported and timed, a dozen times over until what is left out is predicted within
    5 % (median), `most` times at most. The fit is kept in the user's cache for this machine.

    Raises RuntimeUnavailable, CaptureError or ArtifactError as `export` does, RunError if too few versions can be run.
    """
    chosen = find_runtime(runtime).options(options or {})
    example = ExampleInputs.of(example_inputs)
    coupling = couple(model, example)
    folder = tempfile.TemporaryDirectory(prefix="penjing-target-")
    baseline = export(model, example, Path(folder.name) / "whole", runtime, options=chosen)
    baseline_ms = time_of(baseline, example)
    counts = features(coupling.captured.module.graph, coupling.captured.shapes)
    name = "latency-" + fingerprint({"counts": counts, "runtime": runtime, "options": chosen, "seed": seed})[:16]
    if (kept := read_cached(name)) is not None:
        fitted = LatencyModel.from_data(kept)
    else:
        fitted = _fitted(coupling, counts, baseline, example, most, seed, progress)
        keep(name, fitted.to_data())
    return MeasuredTarget(runtime, chosen, example, fitted, baseline_ms, baseline, folder)


def _fitted(
    coupling: Coupling,
    counts: Mapping[str, float],
    baseline: Artifact,
    example: ExampleInputs,
    most: int,
    seed: int,
    progress: Progress | None,
) -> LatencyModel:
    samples = [Sample(counts, 1.0)]
    problem: PenjingError | None = None
    drawn = variants(coupling, seed)
    done = 0
    while done < most:
        for removed in islice(drawn, BATCH):
            done += 1
            try:
                samples.append(measured_variant(coupling, removed, baseline, example))
            except PenjingError as error:  # one that cannot be run teaches nothing; too many are an error below
                problem = error
            if progress is not None:
                progress.update(done, most, f"measuring widths in {baseline.runtime}")
        if len(samples) > done / 2 and (fitted := fit(samples)).median_error <= GOOD:
            return fitted
    if len(samples) <= done / 2:
        raise RunError(
            f"only {len(samples) - 1} of {done} narrower versions of the model could be run in {baseline.runtime}: "
            f"{problem}; choose widths without measuring, with of='macs' and no runtime="
        )
    return fit(samples)


def measured_variant(
    coupling: Coupling, removed: Mapping[str, Any], baseline: Artifact, example: ExampleInputs
) -> Sample:
    """Cut, export and time one version of a model; its latency is a share of the baseline's."""
    with tempfile.TemporaryDirectory() as folder:
        module = cut(coupling, removed).module
        artifact = export(module, example, Path(folder) / "model", baseline.runtime, options=baseline.options)
        ratio = quick_ratio((artifact, example), (baseline, example), _SECONDS)
    return Sample(features(coupling.captured.module.graph, coupling.shapes_after(removed)), 1 / ratio.value)


def time_of(artifact: Artifact, example: ExampleInputs) -> float:
    """The median time of a call, in milliseconds."""
    with undisturbed(threads_of(artifact)):
        (timings,) = time_blocks([session_call(artifact, example)], _SECONDS)
    return float(np.median(np.median(timings.wall_ms, axis=1)))


def _by_name(runtime: str) -> MakeTarget:
    find_runtime(runtime)
    return lambda model, example, progress: measured_target(model, example, runtime, progress=progress)


register_targets(_by_name)
