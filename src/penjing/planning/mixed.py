"""Mixed precision: which layers stay in float, so that the rest may be in fewer bits and the contract holds.

    found = mixed_precision(workload, Contract(max_drop=0.005))
    apply(workload, found.step)

Three measurements stand for all combinations: the noise that each layer makes alone, what each layer takes in the
runtime in either format, and what a change of format between two layers takes. Under a limit on the sum of the noise,
the fastest choice is found exactly (`penjing.techniques.allocation`). What noise the metric bears is not known, so the
limit is searched: each trial is quantised, exported and scored, and halves the interval.
"""

import glob
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penjing.errors import RecipeError
from penjing.measuring import target as _targets  # noqa: F401 - registers the runtimes as targets
from penjing.measuring.layer_times import conversion_ms, layer_times
from penjing.recipe import Contract, Quantize
from penjing.recipe.schemes import FLOAT
from penjing.runtimes import export
from penjing.techniques import apply
from penjing.techniques.allocation import Menus, Option, Pair, allocate, total
from penjing.techniques.quantize.alone import Alone, noise_alone
from penjing.training import Progress
from penjing.types import Split
from penjing.verdict import value_drop
from penjing.workload import Workload

_TRIALS = 8
_LEAST = 1 / 256  # of the noise that is too much: the least that is tried next
_CLOSE = 1.15  # two limits on the noise that lie nearer than this are one


@dataclass(frozen=True)
class Trial:
    """One choice: its step, the layers in float, its noise and time as foretold, and what its file scored."""

    step: Quantize
    floats: tuple[str, ...]
    noise: float
    predicted_ms: float
    value: float
    drop: float


@dataclass(frozen=True)
class MixedPrecision:
    """What came out: the fastest choice that keeps the contract on the search split, and all trials, in order.

    step: None where none kept it. baseline: the metric of the float model. predicted_ms: of the float model.
    """

    step: Quantize | None
    trials: tuple[Trial, ...]
    baseline: float
    predicted_ms: float
    alone: Alone = field(repr=False)

    @property
    def evaluations(self) -> int:
        """How many quantised models were scored; all in float is the original, scored before."""
        return sum(len(trial.floats) < len(self.alone.noise) for trial in self.trials)

    def table(self) -> str:
        """The trials as text, a line for each."""
        lines = [f"{'layers in float':>15}{'noise':>10}{'ms':>9}{'drop':>9}"]
        lines += [f"{len(t.floats):>15}{t.noise:>10.2g}{t.predicted_ms:>9.3g}{t.drop:>9.4f}" for t in self.trials]
        return "\n".join(lines)


def mixed_precision(
    workload: Workload,
    contract: Contract,
    *,
    scheme: str = "int8",
    runtime: str = "onnxruntime",
    options: Mapping[str, Any] | None = None,
    method: str | tuple[str, ...] = "auto",
    trials: int = _TRIALS,
    seed: int = 0,
    progress: Progress | None = None,
) -> MixedPrecision:
    """Choose the layers that stay in float, fastest first, under the contract's `max_drop` on the search split.

    scheme: a static one, for the other layers. method: as in Quantize. trials: how many models are quantised and scored
    at most. Layers of which float is the faster format stay in float for that reason alone.

    Raises RecipeError where nothing can be quantised or data are missing, RuntimeUnavailable for a runtime that does
    not time its kernels.
    """
    if trials < 1:
        raise RecipeError(f"mixed_precision: trials={trials!r} must be at least 1")
    for need in ("search", "calibration"):
        if not workload.brings(need):
            raise RecipeError(f"mixed_precision needs {need} data; give Workload(..., evaluation=, calibration=)")
    alone = noise_alone(workload, {scheme: scheme})
    menus, pairs = _menus(workload, alone, scheme, runtime, options)
    baseline = workload.evaluate(workload.model, Split.SEARCH)[0].value
    tried: dict[tuple[str, ...], Trial] = {}

    def trial(limit: float) -> Trial:
        choice = allocate(menus, {"noise": limit}, pairs)
        assert choice is not None  # all in float keeps every limit
        floats = tuple(layer for layer, name in choice.items() if name == FLOAT)
        if floats not in tried:
            noise = sum(alone.noise[layer][scheme] for layer in choice if layer not in floats)
            step = Quantize(scheme, method, {glob.escape(layer): FLOAT for layer in floats})
            value = baseline if len(floats) == len(menus) else _score(workload, step, runtime, options, seed)
            lost = value_drop(baseline, value, workload.metric.direction, contract.relative)
            tried[floats] = Trial(step, floats, noise, total(menus, choice, pairs), value, lost)
            if progress is not None:
                progress.update(len(tried), trials, f"{len(floats)} layers in float, drop {lost:.4g}")
        return tried[floats]

    _search(trial, lambda: len(tried) >= trials, sum(noise[scheme] for noise in alone.noise.values()), contract)
    kept = [each for each in tried.values() if each.drop <= contract.max_drop and len(each.floats) < len(menus)]
    fastest_first = sorted(kept, key=lambda each: each.predicted_ms)
    step = fastest_first[0].step if fastest_first else None
    all_float = total(menus, dict.fromkeys(menus, FLOAT), pairs)
    return MixedPrecision(step, tuple(tried.values()), baseline, all_float, alone)


def _search(trial: Callable[[float], Trial], enough: Callable[[], bool], noise: float, contract: Contract) -> None:
    """Try limits on the noise until two that lie close together part what keeps the contract from what does not."""
    fastest = trial(noise)
    if fastest.drop <= contract.max_drop or not fastest.noise:
        return
    kept, high = 0.0, fastest.noise
    limit = high * (contract.max_drop / fastest.drop) ** 2  # scores move about as the root of an energy
    while not enough() and high > _CLOSE * kept:
        limit = min(max(limit, kept or high * _LEAST), high / _CLOSE)
        found = trial(limit)
        if found.drop <= contract.max_drop:
            kept = limit
        else:
            high = found.noise
        limit = math.sqrt(high * (kept or high * _LEAST))


def _menus(
    workload: Workload, alone: Alone, scheme: str, runtime: str, options: Mapping[str, Any] | None
) -> tuple[Menus, list[Pair]]:
    """Milliseconds of each layer in float and in the scheme, and of the changes of format between layers."""
    quantized = apply(workload, Quantize(scheme, "minmax"), runtime=runtime).model
    in_float, in_scheme = (
        layer_times(model, workload.example, runtime, options=options, dynamic_shapes=workload.dynamic_shapes).layers
        for model in (workload.model, quantized)
    )
    menus = {
        layer: [
            Option(FLOAT, in_float.get(layer, 0.0)),
            Option(scheme, in_scheme.get(layer, 0.0), {"noise": noise[scheme]}),
        ]
        for layer, noise in alone.noise.items()
    }
    per_value = conversion_ms(runtime, options)
    pairs = []
    for handover in alone.handovers:
        if handover.source in menus and handover.reader in menus:
            cost = per_value * handover.values
            pairs.append(Pair(handover.source, handover.reader, {(FLOAT, scheme): cost, (scheme, FLOAT): cost}))
    return menus, pairs


def _score(workload: Workload, step: Quantize, runtime: str, options: Mapping[str, Any] | None, seed: int) -> float:
    """Quantise, deploy and score on the search split: the number is that of the file."""
    model = apply(workload, step, runtime=runtime, seed=seed).model
    with tempfile.TemporaryDirectory() as temporary:
        artifact = export(
            model,
            workload.example,
            Path(temporary) / "trial",
            runtime,
            dynamic_shapes=workload.dynamic_shapes,
            options=options,
            tolerance=math.inf,
        )
        return workload.evaluate(artifact.load(), Split.SEARCH)[0].value
