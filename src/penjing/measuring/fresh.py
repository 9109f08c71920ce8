"""Figures from new processes: what a latency limit is judged by, and the memory that a model takes.

The child is `python -m penjing.measuring.child`; inputs go to it as an .npz file, figures come back as JSON.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from penjing.errors import RunError
from penjing.measuring.latency import NOISY, Latency, interval_of
from penjing.measuring.statistics import between_processes, noise
from penjing.runtimes import Artifact
from penjing.workload import ExampleInputs


@dataclass(frozen=True)
class Memory:
    """Resident memory of loading a model and running it once, in bytes.

    model_bytes: growth at the peak over the process with the runtime imported. process_bytes: the whole process at the
    peak; it holds Python and PyTorch as well.
    """

    model_bytes: int
    process_bytes: int
    batch: int

    def to_data(self) -> dict[str, int]:
        """Give the memory as JSON values."""
        return asdict(self)

    @staticmethod
    def from_data(data: Mapping[str, int]) -> "Memory":
        """Read what `to_data` gave."""
        return Memory(**data)


def measure_fresh(artifact: Artifact, example_inputs: Any, *, processes: int = 3, seconds: float = 1.0) -> Latency:
    """Time a deployed model in several new processes, one after the other; the interval covers how they differ.

    Raises RunError, with the child's last words, when one fails, ValueError for fewer than 2 processes.
    """
    if processes < 2:
        raise ValueError(f"processes={processes}: how processes differ takes at least 2")
    each = [Latency.from_data(run_child("latency", artifact, example_inputs, seconds)) for _ in range(processes)]
    median, interval = between_processes([one.median_ms for one in each], [interval_of(one) for one in each])
    tails = [one.p99_ms for one in each]
    return replace(
        each[0],
        median_ms=median,
        low_ms=interval.low,
        high_ms=interval.high,
        cpu_ms=None if each[0].cpu_ms is None else float(np.median([one.cpu_ms for one in each])),
        p95_ms=max(one.p95_ms for one in each),
        p99_ms=None if None in tails else max(tail for tail in tails if tail is not None),
        runs=sum(one.runs for one in each),
        blocks=sum(one.blocks for one in each),
        processes=processes,
        pinned=all(one.pinned for one in each),
        noise=next((one.noise for one in each if one.noise), noise(median, interval, NOISY)),
    )


def memory(artifact: Artifact, example_inputs: Any) -> Memory:
    """Peak resident memory of loading and running a deployed model, in a new process; raises RunError when it fails."""
    return Memory.from_data(run_child("memory", artifact, example_inputs, 0.0))


def run_child(task: str, artifact: Artifact, example_inputs: Any, seconds: float) -> dict[str, Any]:
    """Have one of the tasks of `child` done in a new process; raises RunError, with its last words, when it fails."""
    example = ExampleInputs.of(example_inputs)
    feeds = artifact.load().feeds(*example.args, **example.kwargs)
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs.npz"
        np.savez(inputs, *feeds)
        command = [sys.executable, "-m", "penjing.measuring.child", task, str(artifact.path), str(inputs)]
        command += [str(example.batch_size), str(seconds)]
        # The math libraries of PyTorch start a thread for each core as soon as they are imported.
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RunError(f"measuring {artifact.path} in a new process failed: {last}; run it in this process to see more")
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures
