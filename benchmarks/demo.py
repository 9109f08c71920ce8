"""What `penjing demo` reaches in a fresh folder: its verdict, how much faster and smaller, and how long it took.

    python -m benchmarks.demo

The shipped model is timed again afterwards, in turns with the original's export, on one pinned thread.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import penjing as pj
from benchmarks.common import record
from benchmarks.resnet20_fashion import vars_of
from penjing.runs import read_best
from penjing.runtimes import Artifact
from penjing.workload import digits

ANSWERS = {0: "pass", 1: "fail", 3: "undecided"}
BATCHES = (1, 32)
MAIN = "from penjing.cli import main; sys.exit(main())"


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "demo"
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; {MAIN}", "demo", "--out", out, "--json"],
            env={**os.environ, "PENJING_HOME": str(Path(temporary) / "home")},  # a ledger of its own: a first look
            stdout=subprocess.PIPE,
            text=True,
        )
        wall_s = time.perf_counter() - start
        if done.returncode not in ANSWERS:
            raise SystemExit(f"penjing demo ended with exit code {done.returncode}")
        best = read_best(out / "run")
        assert best is not None  # every answer comes with a model
        baseline, shipped = (
            Artifact.open(folder / "artifact") for folder in (out / "run" / "candidates" / "baseline", best.path)
        )
        images, _ = digits()
        faster = {str(n): vars_of(pj.measure(shipped, images[:n], against=baseline).ratio) for n in BATCHES}
        sizes = {"original_bytes": baseline.size_bytes, "shipped_bytes": shipped.size_bytes}
    smaller = baseline.size_bytes / shipped.size_bytes
    answer = ANSWERS[done.returncode]
    print(
        f"{answer} in {wall_s:.0f} s; {faster['32']['value']:.2f}x as fast at batch 32 "
        f"[{faster['32']['low']:.2f}, {faster['32']['high']:.2f}], {smaller:.2f}x smaller"
    )
    report = json.loads(done.stdout)
    record(
        "demo",
        {
            "outcome": answer,
            "verdict": report.get("verdict"),
            "wall_s": wall_s,
            "faster_by": faster,
            "smaller_by": smaller,
            **sizes,
        },
    )


if __name__ == "__main__":
    main()
