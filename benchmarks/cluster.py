"""What palettes cost and save: accuracy and size of the compact files, by bits, without training.

    python -m benchmarks.cluster [--cache .cache]

ResNet-20 on Fashion-MNIST, trained for 14 epochs (kept in the cache). All convolutions and the linear layer go on
palettes; the accuracy is that of 5,000 held-out images.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import penjing as pj
from benchmarks.common import record
from penjing.recipe import Step
from penjing.types import Split

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from fashion_mnist import DATA, trained, workload

EPOCHS = 14
WAYS: dict[str, dict[str, Any]] = {
    "a palette for each tensor": {},
    "the optimum for each tensor, weighed by Fisher": {"start": "exact", "importance": "fisher"},
    "a palette for each filter": {"granularity": "axis"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, nargs="+", default=[2, 3, 4, 6])
    parser.add_argument("--cache", type=Path, default=Path(".cache"))
    parser.add_argument("--data", type=Path, default=DATA)
    args = parser.parse_args()

    w = workload(trained("resnet20", args.data, args.cache, EPOCHS), args.data, name="ResNet-20 on Fashion-MNIST")
    dense = measured(w, [], compact=False)
    rows = [
        {"bits": bits, "how": how, **measured(w, [pj.Cluster(bits, **way)])}
        for bits in args.bits
        for how, way in WAYS.items()
    ]
    record("cluster", {**dense, "rows": rows})


def measured(w: pj.Workload, steps: list[Step], *, compact: bool = True) -> dict[str, Any]:
    """Accuracy after the steps, and the bytes of the tensors in the folder saved."""
    outcome = pj.apply(w, steps)
    with tempfile.TemporaryDirectory() as temporary:
        folder = outcome.save(Path(temporary, "model"), compact=compact)
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    accuracy = w.evaluate(outcome.model, Split.SEARCH)[0].value
    print(f"{pj.Recipe(steps).explain()}: {accuracy:.4f}, {size:,} bytes", flush=True)
    return {"accuracy": accuracy, "bytes": size}


if __name__ == "__main__":
    main()
