"""ResNet-20 on Fashion-MNIST, sparse or in few bits, trained on: what it loses, beside a control trained as long.

    python -m benchmarks.retrained_resnet20 [--epochs 1] [--seeds 1] [--only "w4a4; w2"]

Every row is the file in ONNX Runtime, on the 10,000 test images. Losses are paired with the float32 file of the same
seed, with a 95 % interval, that of the verdict; the dense control is trained on for as long. The trained models are
kept in .cache.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import penjing as pj
from benchmarks.common import record
from benchmarks.quantize_resnet20 import loss_of
from benchmarks.resnet20_fashion import EPOCHS
from penjing.types import Split

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from fashion_mnist import DATA, trained, workload

LR = 0.003


def recipes(epochs: float) -> dict[str, list[Any]]:
    """What is compared; a recipe is one line more."""
    training = pj.Finetune(epochs=epochs, lr=LR, distill_weight=0.5, temperature=1.0)
    return {
        "dense control": [training],
        "w4a4, not trained": [pj.Quantize("w4a4")],
        "w4a4": [pj.Quantize("w4a4"), training],
        "w2, not trained": [pj.Quantize("w2")],
        "w2": [pj.Quantize("w2"), training],
        "w2a8": [pj.Quantize("w2a8"), training],
        "80 % zeros": [pj.Sparsify(0.8, method="auto"), training],
        "80 % zeros, cubic schedule": [pj.Sparsify(0.8, schedule="cubic"), training],
        "90 % zeros": [pj.Sparsify(0.9, method="auto"), training],
        "90 % zeros, cubic schedule": [pj.Sparsify(0.9, schedule="cubic"), training],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=float, default=1.0, help="of training each")
    parser.add_argument("--seeds", type=int, default=1, help="networks that are trained from the beginning")
    parser.add_argument("--only", default="", help="names of recipes, with semicolons between them")
    args = parser.parse_args(arguments)
    only = [name.strip() for name in args.only.split(";") if name.strip()]
    rows: list[dict[str, Any]] = []
    for seed in range(args.seeds):
        w = workload(trained("resnet20", DATA, Path(".cache"), EPOCHS, seed), DATA, seed=seed)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            (reference,) = w.evaluate(pj.export(w.model, w.example, folder / "dense").load(), Split.CERTIFICATE)
            for name, recipe in recipes(args.epochs).items():
                if only and name not in only:
                    continue
                start = time.perf_counter()
                model = pj.apply(w, recipe, seed=seed).model
                seconds = time.perf_counter() - start
                file = pj.export(model, w.example, folder / name.replace(" ", "-").replace(",", ""))
                (samples,) = w.evaluate(file.load(), Split.CERTIFICATE)
                rows.append(
                    {
                        "seed": seed,
                        "recipe": name,
                        "dense_accuracy": reference.value,
                        "accuracy": samples.value,
                        "lost_points": loss_of(reference, samples),
                        "size_bytes": file.size_bytes,
                        "seconds": seconds,
                    }
                )
                print(rows[-1], flush=True)
                record("retrained_resnet20", {"images": len(reference), "epochs": args.epochs, "lr": LR, "rows": rows})


if __name__ == "__main__":
    main()
