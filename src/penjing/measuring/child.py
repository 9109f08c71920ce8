"""The process that `fresh` starts: python -m penjing.measuring.child TASK ARTIFACT INPUTS.npz BATCH SECONDS."""

import json
import resource
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from penjing.measuring.fresh import Memory
from penjing.measuring.latency import summarize
from penjing.measuring.paired import threads_of
from penjing.measuring.timing import bind, time_blocks, undisturbed
from penjing.runtimes import RUNTIMES, Artifact, load
from penjing.runtimes.signature import Array

_STATUS = Path("/proc/self/status")


def main(arguments: list[str]) -> None:
    """Do one task and print its figures as JSON."""
    task, path, inputs, batch, seconds = arguments
    with np.load(inputs, allow_pickle=False) as archive:
        feeds = [archive[name] for name in archive.files]
    figures = TASKS[task](Artifact.open(path), feeds, int(batch), float(seconds))
    json.dump(figures, sys.stdout)


def _latency(artifact: Artifact, feeds: list[Array], batch: int, seconds: float) -> dict[str, Any]:
    threads = threads_of(artifact)
    with undisturbed(threads) as pinned:
        timings = time_blocks([bind(load(artifact.path).run, feeds)], seconds)
    return summarize(
        timings, batch=batch, threads=threads, pinned=pinned, runtime=artifact.runtime, single_threaded=threads == 1
    ).to_data()


def _memory(artifact: Artifact, feeds: list[Array], batch: int, seconds: float) -> dict[str, Any]:
    RUNTIMES[artifact.runtime].options(artifact.options)  # imports the runtime, which is not the model's memory
    before = _restart_peak()
    load(artifact.path).run(feeds)
    peak = _peak()
    return Memory(model_bytes=max(0, peak - before), process_bytes=peak, batch=batch).to_data()


def _cold(artifact: Artifact, feeds: list[Array], batch: int, seconds: float) -> dict[str, Any]:
    marks = [time.perf_counter()]
    RUNTIMES[artifact.runtime].options(artifact.options)  # imports the runtime
    marks.append(time.perf_counter())
    session = load(artifact.path)
    marks.append(time.perf_counter())
    session.run(feeds)
    marks.append(time.perf_counter())
    spans = [(end - start) * 1e3 for start, end in pairwise(marks)]
    return dict(zip(("import_ms", "load_ms", "first_run_ms"), spans, strict=True)) | {"batch": batch}


def _restart_peak() -> int:
    """Let the peak count from now on, and give what is resident now; without Linux's switch, the peak so far."""
    switch = Path("/proc/self/clear_refs")
    if switch.exists():
        switch.write_text("5")
        return _status("VmRSS")
    return _peak()


def _peak() -> int:
    if _STATUS.exists():
        return _status("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(field: str) -> int:
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return int(lines[field].split()[0]) * 1024


TASKS: dict[str, Callable[[Artifact, list[Array], int, float], dict[str, Any]]] = {
    "latency": _latency,
    "memory": _memory,
    "cold": _cold,
}

if __name__ == "__main__":
    main(sys.argv[1:])
