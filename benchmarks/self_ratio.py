"""A file measured against itself: how often the interval of the ratio covers 1, on a quiet and on a busy machine.

    python -m benchmarks.self_ratio [--trials 40] [--batches 1 32] [--seconds 1] [--fresh]

ResNet-20 in ONNX Runtime on one thread; each trial loads two sessions of the same file and times them in turns. Target:
the 95 % interval covers 1 in 36 of 40 trials, with half its width at most 2 % of the ratio, or the answer is "noisy".
Busy: a second process spins on another core. What else ran is told by the load average before each trial. Trials are
kept in .cache/self_ratio.jsonl, and the same command goes on behind the last.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import penjing as pj
from benchmarks.common import record
from penjing.workload import resnet20

CACHE = Path(".cache/self_ratio.jsonl")
TARGET = {"trials": 40, "covered": 36, "half_width": 0.02}
CONDITIONS = ("quiet", "busy")
SPIN = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
parent = os.getppid()
while os.getppid() == parent:  # ends with the benchmark, however that ends
    for _ in range(1_000_000):
        pass
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=TARGET["trials"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--fresh", action="store_true", help="forget the trials that are kept")
    args = parser.parse_args()
    if args.fresh:
        CACHE.unlink(missing_ok=True)
    CACHE.parent.mkdir(exist_ok=True)
    kept = [json.loads(line) for line in CACHE.read_text("utf-8").splitlines()] if CACHE.exists() else []
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        artifact = pj.export(resnet20(), torch.randn(2, 1, 28, 28), folder)
        for batch in args.batches:
            for condition in CONDITIONS:
                asked = {"batch": batch, "condition": condition, "seconds": args.seconds}
                trials = [trial for trial in kept if asked.items() <= trial.items()][: args.trials]
                with busy() if condition == "busy" else quiet():
                    while len(trials) < args.trials:
                        trials.append(asked | once(artifact, batch, args.seconds))
                        with CACHE.open("a", encoding="utf-8") as file:
                            file.write(json.dumps(trials[-1]) + "\n")
                rows.append(summary(trials))
                print({name: value for name, value in rows[-1].items() if name != "trials"}, flush=True)
    record("self_ratio", {"target": TARGET, "seconds": args.seconds, "rows": rows})


def once(artifact: pj.Artifact, batch: int, seconds: float) -> dict[str, Any]:
    """Measure the file against itself and say what came out."""
    load = os.getloadavg()[0]
    ratio = pj.measure(artifact, torch.zeros(batch, 1, 28, 28), against=artifact, seconds=seconds).ratio
    assert ratio is not None
    return {"value": ratio.value, "low": ratio.low, "high": ratio.high, "noisy": ratio.noisy, "load": load}


def summary(trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Count the trials that cover 1 and those that say noisy; a wrong one does neither.

    >>> row = {"batch": 1, "condition": "quiet", "noisy": False, "load": 0.0}
    >>> made = summary([row | {"value": v, "low": v - 0.01, "high": v + 0.01} for v in (1.0, 1.005, 1.02)])
    >>> made["covered"], made["wrong"], made["said_noisy"]
    (2, 1, 0)
    """
    covers = [trial["low"] <= 1.0 <= trial["high"] for trial in trials]
    halves = sorted((trial["high"] - trial["low"]) / 2 / trial["value"] for trial in trials)
    return {
        "batch": trials[0]["batch"],
        "condition": trials[0]["condition"],
        "count": len(trials),
        "covered": sum(covers),
        "said_noisy": sum(trial["noisy"] for trial in trials),
        "wrong": sum(not covered and not trial["noisy"] for covered, trial in zip(covers, trials, strict=True)),
        "median_half_width": halves[len(halves) // 2],
        "load": [min(trial["load"] for trial in trials), max(trial["load"] for trial in trials)],
        "trials": [{name: trial[name] for name in ("value", "low", "high", "noisy", "load")} for trial in trials],
    }


@contextmanager
def busy() -> Iterator[None]:
    """Keep one core busy with a process of its own."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("this takes a second core to keep busy")
    spinning = subprocess.Popen([sys.executable, "-c", SPIN, str(cores[0])])
    try:
        yield
    finally:
        spinning.kill()
        spinning.wait()


@contextmanager
def quiet() -> Iterator[None]:
    """Leave the machine as it is."""
    yield


if __name__ == "__main__":
    main()
