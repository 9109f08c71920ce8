"""What leaving blocks out costs and gains, by score: accuracy without training, and latency of the exported file.

    python -m benchmarks.depth [--count 3]

ResNet-20 on Fashion-MNIST, trained for 14 epochs (kept in .cache). Each score drops 1 to `count` of its seven blocks
that can be bypassed; the accuracy is that of 5,000 held-out images. One file for each number of blocks dropped by
divergence is timed in turns with the original's, on one thread.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import penjing as pj
from benchmarks.common import record
from penjing.types import Split

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from fashion_mnist import DATA, trained, workload

EPOCHS = 14
SCORES = ("divergence", "loss", "influence", "magnitude", "taylor", "weight", "random")
SEEDS = 3  # of the random baseline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=3)
    parser.add_argument("--data", type=Path, default=DATA)
    args = parser.parse_args()

    w = workload(trained("resnet20", args.data, Path(".cache"), EPOCHS), args.data, name="ResNet-20 on Fashion-MNIST")
    dense = w.evaluate(w.model, Split.SEARCH)[0].value
    print(f"original: {dense:.4f}", flush=True)
    rows = [
        dropped(w, score, count, seed)
        for count in range(1, args.count + 1)
        for score in SCORES
        for seed in range(SEEDS if score == "random" else 1)
    ]
    record("depth", {"accuracy": dense, "rows": rows, "latency": latency(w, args.count)})


def dropped(w: pj.Workload, score: str, count: int, seed: int) -> dict[str, Any]:
    """Drop blocks by one score and say which, how good the rest is, and how long the choice took."""
    start = time.perf_counter()
    outcome = pj.apply(w, pj.DropBlocks(count, score=score), seed=seed)
    seconds = time.perf_counter() - start
    accuracy = w.evaluate(outcome.model, Split.SEARCH)[0].value
    row = {"score": score, "count": count, "seed": seed, "accuracy": accuracy, "seconds": seconds}
    print(f"{count} by {score}: {accuracy:.4f} in {seconds:.1f} s; {outcome.log[0].what}", flush=True)
    return row | {"log": outcome.log[0].what, "proof": outcome.log[0].proof}


def latency(w: pj.Workload, most: int) -> list[dict[str, Any]]:
    """Time the file without 1 to `most` blocks against the original's, for batches of 1 and 32."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        dense = pj.export(w.model, w.example, Path(folder, "dense"))
        for count in range(1, most + 1):
            smaller = pj.export(pj.apply(w, pj.DropBlocks(count)).model, w.example, Path(folder, str(count)))
            for n in (1, 32):
                ratio = pj.measure(smaller, w.example.with_batch(n), against=dense, seconds=4.0).ratio
                assert ratio is not None
                rows.append(
                    {"count": count, "batch": n, "faster_by": ratio.value, "low": ratio.low, "high": ratio.high}
                )
                print(f"{count} blocks less, batch {n}: {ratio.value:.3f} times as fast", flush=True)
    return rows


if __name__ == "__main__":
    main()
