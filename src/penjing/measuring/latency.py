"""Latency of a deployed model: a distribution, told with its spread, its thread count and its machine."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from penjing.measuring.machine import Machine, machine
from penjing.measuring.statistics import median_interval, noise, ratio_interval
from penjing.measuring.timing import MIN_BLOCKS, Timings, bind, time_blocks, undisturbed
from penjing.runtimes import Artifact
from penjing.types import Interval
from penjing.workload import ExampleInputs

CONFIDENCE = 0.95
NOISY = 0.05
"""Half an interval wider than this share of the median is called noisy."""
SESSIONS = 6
"""How often a pair is loaded anew to be compared; an even number, for the order of loading alternates."""
NOISY_RATIO = 0.02
"""The same for a ratio, which is narrower: what slows both of a pair cancels."""


@dataclass(frozen=True)
class Ratio:
    """How many times faster than another: time of the other / time of this one, paired, with its 95 % interval.

    Where both run on one thread, only the time in which it was running counts, so that other work on the machine, which
    may hit one of a pair alone, does not. Where half the interval is more than 2 % of the value, the ratio is noisy: it
    is then written as its interval alone.

    >>> print(Ratio(1.5, 1.49, 1.51)), print(Ratio(1.5, 1.2, 1.9))
    1.50x [1.49, 1.51]
    noisy, somewhere from 1.20x to 1.90x
    (None, None)
    """

    value: float
    low: float
    high: float

    @property
    def noise(self) -> str | None:
        """Why the value should not be relied on; None where it may be."""
        return noise(self.value, Interval(self.low, self.high, CONFIDENCE), NOISY_RATIO, of="ratio")

    @property
    def noisy(self) -> bool:
        """Whether half the interval is more than 2 % of the value."""
        return self.noise is not None

    def __str__(self) -> str:
        if self.noisy:
            return f"noisy, somewhere from {self.low:.2f}x to {self.high:.2f}x"
        return f"{self.value:.2f}x [{self.low:.2f}, {self.high:.2f}]"


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
            [time_blocks([_call(artifact, example)], seconds)[0]]
            if against is None
            else (_time_pair(artifact, against, example, seconds))
        )
    return summarize(
        timings,
        batch=example.batch_size,
        threads=threads_of(artifact),
        pinned=pinned,
        runtime=artifact.runtime,
        single_threaded=threads == 1,
    )


def _time_pair(first: Artifact, second: Artifact, example: ExampleInputs, seconds: float) -> list[Timings]:
    """Time two files in turns, in pairs of sessions of which each file is loaded first in every other."""
    sessions: list[list[Timings]] = []
    counts: list[int] | None = None
    least = math.ceil(MIN_BLOCKS / SESSIONS)
    for i in range(SESSIONS):
        turn = (first, second) if i % 2 == 0 else (second, first)
        calls = [_call(each, example) for each in turn][:: 1 if i % 2 == 0 else -1]
        sessions.append(time_blocks(calls, seconds / SESSIONS, least=least, per_block=counts))
        counts = counts or [each.wall_ms.shape[1] for each in sessions[0]]
    return [Timings.join(each) for each in zip(*sessions, strict=True)]


def _call(artifact: Artifact, example: ExampleInputs) -> Callable[[], object]:
    session = artifact.load()
    return bind(session.run, session.feeds(*example.args, **example.kwargs))


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
        ours, theirs = [each.cpu_ms for each in timings] if single_threaded else medians
        value, bounds = ratio_interval(theirs, ours, CONFIDENCE, session=timings[0].session)
        ratio = Ratio(value, bounds.low, bounds.high)
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


def threads_of(artifact: Artifact) -> int:
    """Threads that the manifest gives the model."""
    return int(artifact.options.get("threads", 1))


def interval_of(latency: Latency) -> Interval:
    """The interval of the median, in milliseconds."""
    return Interval(latency.low_ms, latency.high_ms, CONFIDENCE)
