"""Latency of a deployed model: a distribution, told with its spread, its thread count and its machine."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from penjing.measuring.machine import Machine, machine
from penjing.measuring.paired import CONFIDENCE, Ratio, ratio_of, session_call, threads_of, time_pair
from penjing.measuring.statistics import median_interval, noise
from penjing.measuring.timing import Timings, time_blocks, undisturbed
from penjing.runtimes import Artifact
from penjing.types import Interval
from penjing.workload import ExampleInputs

NOISY = 0.05
"""Half an interval wider than this share of the median is called noisy."""


@dataclass(frozen=True)
class Latency:
    """Time of one call on a batch, in milliseconds: median with its 95 % interval, and percentiles of calls.

    runs counts timed calls, blocks the groups that the interval is made of, processes where they ran. noise says why
    the figure should not be relied on, None if it may be. cpu_ms is the median of what the thread was running per call,
    which other work on the machine hardly changes; None with several threads.
    pinned: whether the process was held to `threads` cores. p99_ms: None in records older than it, and under 100 calls,
    which do not tell it.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    p95_ms: float
    cpu_ms: float | None
    batch: int
    threads: int
    runs: int
    blocks: int
    processes: int
    pinned: bool
    noise: str | None
    runtime: str
    machine: Machine
    ratio: Ratio | None = None
    p99_ms: float | None = None

    @property
    def noisy(self) -> bool:
        """Whether the spread is too wide for the figure to be relied on."""
        return self.noise is not None

    @property
    def samples_per_second(self) -> float:
        """Throughput of one caller: batch / median."""
        return self.batch / self.median_ms * 1e3

    def to_data(self) -> dict[str, Any]:
        """Give the latency as JSON values."""
        return asdict(self) | {"machine": self.machine.to_data()}

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> "Latency":
        """Read what `to_data` gave."""
        ratio = data["ratio"]
        return Latency(**{**data, "machine": Machine.from_data(data["machine"]), "ratio": ratio and Ratio(**ratio)})

    def __str__(self) -> str:
        plural = "s" if self.threads > 1 else ""
        text = (
            f"{self.median_ms:.3g} ms [{self.low_ms:.3g}, {self.high_ms:.3g}], p95 {self.p95_ms:.3g} ms "
            f"(batch {self.batch}, {self.threads} thread{plural})"
        )
        text += ", noisy" if self.noisy else ""
        return text + (f"; ratio {self.ratio}" if self.ratio else "")


def measure(
    artifact: Artifact, example_inputs: Any, *, against: Artifact | None = None, seconds: float = 2.0
) -> Latency:
    """Time a deployed model as its manifest says it is run, for about `seconds` (as long again for `against`).

    Both are timed in this process, pinned to as many cores as the model has threads, in interleaved blocks. With
    `against`, `.ratio` is the paired speed-up over it, and both are loaded 6 times, in alternating order: a session
    keeps its memory for life, and with it a speed of its own. Where the machine is too noisy, `.noisy` says so.

    Raises WorkloadError or ShapeError for inputs that do not fit, ArtifactError for a changed file.
    """
    example = ExampleInputs.of(example_inputs)
    artifacts = [artifact] if against is None else [artifact, against]
    threads = max(threads_of(each) for each in artifacts)
    with undisturbed(threads) as pinned:  # loading too: worker threads inherit the cores of their creator
        timings = (
            time_blocks([session_call(artifact, example)], seconds)
            if against is None
            else time_pair((artifact, example), (against, example), seconds)
        )
    return summarize(
        timings,
        batch=example.batch_size,
        threads=threads_of(artifact),
        pinned=pinned,
        runtime=artifact.runtime,
        single_threaded=threads == 1,
    )


def summarize(
    timings: Sequence[Timings], *, batch: int, threads: int, pinned: bool, runtime: str, single_threaded: bool
) -> Latency:
    """Make a latency of timings; a second candidate is what the first is compared with."""
    medians = [np.median(each.wall_ms, axis=1) for each in timings]
    median = float(np.median(medians[0]))
    interval = median_interval(medians[0], CONFIDENCE)
    # With several threads the caller waits for the others as well: its own running time says nothing then.
    running = timings[0].running if single_threaded else 1.0
    ratio = None
    if len(timings) > 1:
        ratio = ratio_of(timings[0], timings[1], single_threaded=single_threaded)
    return Latency(
        median_ms=median,
        low_ms=interval.low,
        high_ms=interval.high,
        p95_ms=float(np.quantile(timings[0].wall_ms, 0.95)),
        cpu_ms=float(np.median(timings[0].cpu_ms)) if single_threaded else None,
        batch=batch,
        threads=threads,
        runs=timings[0].wall_ms.size,
        blocks=len(medians[0]),
        processes=1,
        pinned=pinned,
        noise=noise(median, interval, NOISY, running),
        runtime=runtime,
        machine=machine(),
        ratio=ratio,
        p99_ms=float(np.quantile(timings[0].wall_ms, 0.99)) if timings[0].wall_ms.size >= 100 else None,
    )


def interval_of(latency: Latency) -> Interval:
    """The interval of the median, in milliseconds."""
    return Interval(latency.low_ms, latency.high_ms, CONFIDENCE)
