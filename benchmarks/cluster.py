"""What palettes cost and save: accuracy and the size of the compact folder, by bits, without training and after some.

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


def ways(bits: int) -> dict[str, list[Step]]:
    """What is compared at so many bits."""
    found: dict[str, list[Step]] = {
        "a palette for each tensor": [pj.Cluster(bits)],
        "the optimum, weighed by Fisher": [pj.Cluster(bits, start="exact", importance="fisher")],
        "a palette for each filter": [pj.Cluster(bits, granularity="axis")],
    }
    if bits <= 2:
        training = pj.Finetune(epochs=0.25, lr=0.01, precision="fp32")
        found["for each tensor, centroids trained for a quarter of an epoch"] = [pj.Cluster(bits), training]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--cache", type=Path, default=Path(".cache"))
    parser.add_argument("--data", type=Path, default=DATA)
    args = parser.parse_args()

    w = workload(trained("resnet20", args.data, args.cache, EPOCHS), args.data, name="ResNet-20 on Fashion-MNIST")
    dense = measured(w, [], compact=False)
    rows = [{"bits": bits, "how": how, **measured(w, steps)} for bits in args.bits for how, steps in ways(bits).items()]
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
