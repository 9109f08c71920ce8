"""ResNet-20 on Fashion-MNIST in eight and four bits without training: what it loses, and how long it takes.

    python -m benchmarks.quantize_resnet20

Every row is the file in ONNX Runtime, on the 10,000 test images; calibration reads training images. Losses are paired
with the float32 file, with a 95 % interval, that of the verdict. The trained model is kept in
.cache. Latency is a ratio to the float32 file, in turns, on one thread.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import penjing as pj
from benchmarks.common import record
from benchmarks.resnet20_fashion import EPOCHS, peer_int8
from penjing.types import Split
from penjing.verdict.noninferiority import drop_limits
from penjing.workload import Samples

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from fashion_mnist import DATA, trained, workload

RECIPES: dict[str, pj.Quantize] = {
    "int8": pj.Quantize(),
    "int8, nearest": pj.Quantize(method="minmax"),
    "w4, nearest": pj.Quantize("w4", method="nearest"),
    "w4": pj.Quantize("w4"),
    "w4, adaround, bias": pj.Quantize("w4", method=("adaround", "bias")),
    "w4, blocks, bias": pj.Quantize("w4", method=("blocks", "bias")),
    "w4a8": pj.Quantize("w4a8"),
}
"""What is compared; a recipe is one line more."""


def loss_of(reference: Samples, candidate: Samples) -> dict[str, float]:
    """What is lost, in points, with its interval."""
    drop = drop_limits(reference, candidate, 0.025)
    return {"value": 100 * drop.value, "low": 100 * drop.lower, "high": 100 * drop.upper}


def main() -> None:
    rows: dict[str, Any] = {}
    w = workload(trained("resnet20", DATA, Path(".cache"), EPOCHS), DATA, name="ResNet-20 on Fashion-MNIST")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dense = pj.export(w.model, w.example, folder / "dense")
        (reference,) = w.evaluate(dense.load(), Split.CERTIFICATE)

        def tell(name: str, artifact: pj.Artifact, seconds: float | None) -> None:
            (samples,) = w.evaluate(artifact.load(), Split.CERTIFICATE)
            latency = pj.measure(artifact, w.example.with_batch(1), against=dense, seconds=2.0)
            assert latency.ratio is not None
            rows[name] = {
                "accuracy": samples.value,
                "lost_points": loss_of(reference, samples),
                "size_bytes": artifact.size_bytes,
                "seconds": seconds,
                "faster": {"value": latency.ratio.value, "low": latency.ratio.low, "high": latency.ratio.high},
            }
            print(name, rows[name], flush=True)

        rows["float32"] = {"accuracy": reference.value, "size_bytes": dense.size_bytes}
        start = time.perf_counter()
        theirs = peer_int8(dense, w, folder / "peer")
        tell("onnxruntime.quantization, int8 per channel", theirs, time.perf_counter() - start)
        for name, step in RECIPES.items():
            start = time.perf_counter()
            model = pj.apply(w, step).model
            seconds = time.perf_counter() - start
            tell(
                f"penjing {name}",
                pj.export(model, w.example, folder / name.replace(" ", "-").replace(",", "")),
                seconds,
            )
    record("quantize_resnet20", {"images": len(reference), "epochs": EPOCHS, "rows": rows})


if __name__ == "__main__":
    main()
