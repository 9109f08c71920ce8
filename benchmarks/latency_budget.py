"""ResNet-20 at equal MACs: widths chosen with and without measurement, in ONNX Runtime fp32.

    python -m benchmarks.latency_budget [--epochs 14] [--recovery 1]

The network (trained on Fashion-MNIST) loses a part of its MACs at widths of any kind, at multiples of 8, and at widths
that the latency model of this machine finds to pay. All are exported and timed in turns with the first on one pinned
thread, and scored on the 10,000 test images after the same recovery.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import penjing as pj
from benchmarks.common import record
from benchmarks.resnet20_fashion import vars_of
from penjing.measuring.target import measured_target
from penjing.types import Split

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from fashion_mnist import DATA, trained, workload

REMOVED = (0.5, 0.75)
BATCHES = (8, 1, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=14, help="of the original")
    parser.add_argument("--recovery", type=int, default=1, help="epochs after each cut")
    arguments = parser.parse_args()
    model = trained("resnet20", DATA, Path(".cache"), arguments.epochs)
    w = workload(model, DATA, batch=BATCHES[0])
    target = measured_target(model, w.example)
    print(target, flush=True)
    whole_macs = pj.profile(model, w.example.with_batch(1)).macs
    rows: list[dict[str, Any]] = []
    for removed in REMOVED:
        ways = {"any width": (None, None), "multiples of 8": (8, None), "measured": ("auto", target)}
        with tempfile.TemporaryDirectory() as folder:
            artifacts: dict[str, Any] = {}
            for name, (round_to, machine) in ways.items():
                recipe = pj.Recipe(
                    [pj.PruneChannels(removed, of="macs", round_to=round_to), recovery(arguments.recovery)]
                )
                outcome = pj.apply(w, recipe, runtime=machine)
                artifacts[name] = pj.export(outcome.model, w.example, Path(folder) / name.replace(" ", "-"))
                row = {
                    "removed": removed,
                    "widths": name,
                    "macs_left": pj.profile(outcome.model, w.example.with_batch(1)).macs / whole_macs,
                    "accuracy": w.evaluate(artifacts[name].load(), Split.CERTIFICATE)[0].value,
                    "faster_than_any_width": {},
                    "noise": {},
                    "log": [each.what for each in outcome.log if each.what.startswith(("cut", "latency"))],
                }
                for batch in BATCHES:
                    against = artifacts["any width"]
                    latency = pj.measure(artifacts[name], w.example.with_batch(batch), against=against)
                    row["faster_than_any_width"][str(batch)] = vars_of(latency.ratio)
                    row["noise"][str(batch)] = latency.noise
                rows.append(row)
                print(row, flush=True)
    record(
        "latency_budget",
        {
            "original_epochs": arguments.epochs,
            "recovery_epochs": arguments.recovery,
            "measured_at_batch": BATCHES[0],
            "model_median_error": target.model.median_error,
            "networks_measured": target.model.samples,
            "rows": rows,
        },
    )


def recovery(epochs: int) -> pj.Finetune:
    return pj.Finetune(epochs=epochs)


if __name__ == "__main__":
    main()
