"""The capability table: what each technique is worth in each runtime on this machine, measured and kept.

A factor is the time of the usual network over that of the changed one, both deployed in the same runtime and timed in
turns. Half the MACs is a factor of 2 only where the runtime has kernels for it; most sparsity patterns have none.
"""

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from penjing.errors import PenjingError
from penjing.measuring.cache import keep, read_cached
from penjing.measuring.paired import quick_ratio
from penjing.measuring.probes import PROBES, USUAL, Probe
from penjing.runtimes import RUNTIMES, Artifact, export, missing
from penjing.training import Progress
from penjing.workload import ExampleInputs

_CACHED = "capability"
_SECONDS = 0.4


@dataclass(frozen=True)
class Capability:
    """How many times faster a pattern made a small network, with the 95 % interval; ideal is what its MACs promise.

    factor is None where it could not be measured, and `why` says so.
    """

    runtime: str
    pattern: str
    factor: float | None
    low: float | None
    high: float | None
    ideal: float
    why: str = ""

    def to_data(self) -> dict[str, Any]:
        """Give the row as JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        if self.factor is None:
            return f"{self.runtime} {self.pattern}: not measured, {self.why}"
        return f"{self.runtime} {self.pattern}: {self.factor:.2f}x [{self.low:.2f}, {self.high:.2f}]"


def calibrate(
    runtimes: Sequence[str] | None = None,
    probes: Iterable[Probe] = PROBES,
    *,
    budget_s: float = 270.0,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Capability, ...]:
    """Measure the table for the runtimes named, by default those installed, and keep it in the user's cache.

    The most telling probes come first, of all runtimes in turn; what the budget does not reach is a row that says so.
    """
    names = [name for name, runtime in sorted(RUNTIMES.items()) if not missing(runtime)]
    chosen = names if runtimes is None else list(runtimes)
    asked = [(name, probe) for probe in probes for name in chosen if _applies(probe, name)]
    end = clock() + budget_s
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        bench = _Bench(Path(folder))
        for done, (name, probe) in enumerate(asked):
            if progress is not None:
                progress.update(done, len(asked), f"{name}: {probe.pattern}")
            if clock() < end:
                rows.append(bench.measure(probe, name))
            else:
                why = f"the {budget_s:.0f} s were over; calibrate this runtime alone"
                rows.append(Capability(name, probe.pattern, None, None, None, probe.ideal, why))
    if progress is not None:
        progress.update(len(asked), len(asked), "done")
    table = {(row.runtime, row.pattern): row for row in (*capabilities(), *rows)}
    keep(_CACHED, [row.to_data() for row in table.values()])
    return tuple(rows)


def capabilities() -> tuple[Capability, ...]:
    """Read the table of this machine; empty before it was calibrated."""
    kept = read_cached(_CACHED)
    return tuple(Capability(**row) for row in kept or ())


def factors(rows: Iterable[Capability]) -> Mapping[tuple[str, str], float]:
    """The measured factors by runtime and pattern."""
    return {(row.runtime, row.pattern): row.factor for row in rows if row.factor is not None}


class _Bench:
    """A folder for the deployed networks of a calibration; a usual one is deployed once for each runtime."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._usual: dict[tuple[str, str], tuple[Artifact, nn.Module, Tensor]] = {}

    def measure(self, probe: Probe, runtime: str) -> Capability:
        """Deploy the changed network of a probe in a runtime and time it in turns with the usual one."""
        try:
            usual, model, x = self._deployed(probe.usual, runtime)
            changed = probe.change(model, x).eval()
            options = {} if probe.precision is None else {"precision": probe.precision}
            with tempfile.TemporaryDirectory(dir=self._folder) as folder:
                artifact = export(changed, x, Path(folder) / "changed", runtime, options=options)
                example = ExampleInputs.of(x[: probe.batch])
                ratio = quick_ratio((artifact, example), (usual, example), _SECONDS)
        except PenjingError as problem:
            return Capability(runtime, probe.pattern, None, None, None, probe.ideal, str(problem))
        return Capability(runtime, probe.pattern, ratio.value, ratio.low, ratio.high, probe.ideal)

    def _deployed(self, name: str, runtime: str) -> tuple[Artifact, nn.Module, Tensor]:
        if (runtime, name) not in self._usual:
            torch.manual_seed(0)
            model, x = USUAL[name]()
            artifact = export(model.eval(), x, self._folder / f"{runtime}-{name}", runtime)
            self._usual[runtime, name] = artifact, model, x
        return self._usual[runtime, name]


def _applies(probe: Probe, runtime: str) -> bool:
    """Whether a runtime has the precision that a probe is about."""
    values = RUNTIMES[runtime].known["precision"].values or ()
    return probe.precision is None or probe.precision in values
