"""Throughput of several copies of a model side by side: what a machine really serves, not one copy times their number.

Each copy is a process of its own (`worker`), and all start at one moment of the clock that processes share. They are
already running when the common window opens and still run when it closes, so that none has it to itself. Calls are
counted by interpolating each copy's finished calls at the edges of the slices that the window is cut into.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from penjing.errors import RunError
from penjing.measuring.latency import NOISY
from penjing.measuring.machine import Machine, machine
from penjing.measuring.paired import CONFIDENCE, threads_of
from penjing.measuring.statistics import Floats, noise, student
from penjing.runtimes import Artifact
from penjing.types import Interval
from penjing.workload import ExampleInputs

SLICES = 10
LEAST_CALLS = 20
LEAD_NS = 200_000_000


@dataclass(frozen=True)
class Throughput:
    """Samples per second of all copies together, with its 95 % interval over slices of the window.

    concurrency: copies, each a process; threads: of each. pinned: whether each copy had cores of its own. noise says
    why the figure should not be relied on, None if it may be.
    """

    samples_per_second: float
    low: float
    high: float
    batch: int
    concurrency: int
    threads: int
    pinned: bool
    seconds: float
    runtime: str
    machine: Machine
    noise: str | None = None

    def to_data(self) -> dict[str, Any]:
        """Give the throughput as JSON values."""
        return asdict(self) | {"machine": self.machine.to_data()}

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> "Throughput":
        """Read what `to_data` gave."""
        return Throughput(**{**data, "machine": Machine.from_data(data["machine"])})

    def __str__(self) -> str:
        copies = "1 copy" if self.concurrency == 1 else f"{self.concurrency} copies"
        plural = "s" if self.threads > 1 else ""
        return (
            f"{self.samples_per_second:.4g} samples/s [{self.low:.4g}, {self.high:.4g}] "
            f"({copies}, batch {self.batch}, {self.threads} thread{plural} each)" + (", noisy" if self.noise else "")
        )


def throughput(artifact: Artifact, example_inputs: Any, *, concurrency: int = 1, seconds: float = 2.0) -> Throughput:
    """Count the samples that `concurrency` processes finish together in a window of `seconds`, or of 20 calls.

    Raises ValueError for a concurrency below 1, RunError, with its last words, when a process fails.
    """
    if concurrency < 1:
        raise ValueError(f"concurrency={concurrency}: at least one process has to run the model")
    example = ExampleInputs.of(example_inputs)
    feeds = artifact.load().feeds(*example.args, **example.kwargs)
    threads = threads_of(artifact)
    cores = sorted(getattr(os, "sched_getaffinity", lambda _: set())(0))
    pinned = len(cores) >= concurrency * threads
    workers: list[subprocess.Popen[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs.npz"
        np.savez(inputs, *feeds)
        try:
            for i in range(concurrency):
                own = cores[i * threads : (i + 1) * threads] if pinned else []
                workers.append(_start(artifact, inputs, own))
            call_ns = max(int(_line(worker, artifact)) for worker in workers)
            length = max(int(seconds * 1e9), LEAST_CALLS * call_ns)
            begin = time.monotonic_ns() + LEAD_NS
            for worker in workers:
                assert worker.stdin is not None
                worker.stdin.write(f"{begin} {begin + length}\n")
                worker.stdin.flush()
            told = [json.loads(_line(worker, artifact)) for worker in workers]
        finally:
            for worker in workers:
                worker.kill()
                worker.communicate()
    finished = [np.array(each["finished"], np.float64) for each in told]
    rates = slice_rates(finished, float(begin), float(length)) * example.batch_size
    mean, half = student(rates.tolist(), CONFIDENCE)
    # A copy that waits for its own threads, or for others where cores are shared on purpose, has no core either.
    running = min(each["running"] for each in told) if pinned and threads == 1 else 1.0
    return Throughput(
        samples_per_second=mean,
        low=max(0.0, mean - half),
        high=mean + half,
        batch=example.batch_size,
        concurrency=concurrency,
        threads=threads,
        pinned=pinned,
        seconds=length / 1e9,
        runtime=artifact.runtime,
        machine=machine(),
        noise=noise(mean, Interval(mean - half, mean + half, CONFIDENCE), NOISY, running, of="mean"),
    )


def slice_rates(finished: Sequence[Floats], begin: float, length: float) -> Floats:
    """Calls per second of all workers together in each slice of the window [begin, begin + length], in nanoseconds.

    finished: for each worker, when its calls ended, from before the window to after it.

    >>> slice_rates([np.arange(-1e9, 3e9, 1e8), np.arange(-1e9, 3e9, 2e8)], 0.0, 2e9)[:3].round(6)
    array([15., 15., 15.])
    """
    edges = np.linspace(begin, begin + length, SLICES + 1)
    counts = sum(np.diff(np.interp(edges, ends, np.arange(len(ends)))) for ends in finished)
    rates: Floats = np.asarray(counts) / (length / SLICES / 1e9)
    return rates


def _start(artifact: Artifact, inputs: Path, cores: Sequence[int]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "penjing.measuring.worker", str(artifact.path), str(inputs)]
    pipe = subprocess.PIPE
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *map(str, cores)], stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment
    )


def _line(worker: subprocess.Popen[str], artifact: Artifact) -> str:
    """Read the next line of a worker; raises RunError when it has ended."""
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if line:
        return line
    _, said = worker.communicate()
    last = (said.strip().splitlines() or [f"exit code {worker.returncode}"])[-1]
    raise RunError(f"a process that runs {artifact.path} failed: {last}; run it in this process to see more")
