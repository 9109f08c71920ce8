"""ResNet-20 on Fashion-MNIST: certified at one point, against the dense model in fp32 and int8, with a dense control.

    python -m benchmarks.resnet20_fashion [--budget 40m]

Everything is measured in one run on one pinned thread, in turns: the dense model in ONNX Runtime fp32, the dense model
quantised by onnxruntime.quantization (static QDQ, U8S8, per channel) and by Penjing, the dense model trained on for as
many epochs as the winner and quantised (the control), and what `optimize` ships. Trained models are kept in .cache and
the run in runs/, so that a second call resumes.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import penjing as pj
from benchmarks.common import record
from penjing.recipe import Finetune, Quantize
from penjing.runtimes import Artifact
from penjing.storage import atomic_folder, write_manifest
from penjing.types import Split

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from fashion_mnist import DATA, trained, workload

EPOCHS = 14


def peer_int8(dense: Artifact, w: pj.Workload, folder: Path) -> Artifact:
    """Quantise the dense file with ONNX Runtime's own tool, and wrap it so that it is measured and judged like ours."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    name = dense.manifest.inputs[0]["name"]

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter([{name: batch.args[0].numpy()} for batch in w.calibration_batches()])

        def get_next(self) -> Any:
            return next(self.batches, None)

    if not folder.exists():
        (model,) = dense.path.glob("*.onnx")
        with atomic_folder(folder) as temporary:
            prepared = temporary / "prepared.onnx"
            quant_pre_process(str(model), str(prepared))
            quantize_static(
                str(prepared),
                str(temporary / model.name),
                Reader(),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
            )
            prepared.unlink()
            write_manifest(temporary, dense.manifest.model_copy(update={"files": {}}))
    return Artifact.open(folder)


def control(w: pj.Workload, epochs: float, folder: Path) -> Artifact:
    """Train the dense model on like the winner was, and quantise it."""
    if not folder.exists():
        outcome = pj.apply(w, [Finetune(epochs=epochs), Quantize()], resume_dir=folder.with_name("control-steps"))
        pj.export(outcome.model, w.example, folder)
    return Artifact.open(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", default="40m")
    parser.add_argument("--data", type=Path, default=DATA)
    args = parser.parse_args()

    out, cache = Path("runs/bench-resnet20"), Path(".cache")
    w = workload(trained("resnet20", args.data, cache, EPOCHS), args.data, name="ResNet-20 on Fashion-MNIST")
    run = pj.optimize(w, pj.Contract(max_drop=0.01), budget=args.budget, out=out)
    print(run.summary(), flush=True)

    winner = next(event for event in run.front if run.best.path.parent.name == event["hash"])
    epochs = next((s["finetune"]["epochs"] for s in winner.get("recipe", ()) if "finetune" in s), 0)
    dense = Artifact.open(out / "candidates" / "baseline" / "artifact")
    ours = pj.apply(w, Quantize())
    others = {
        "dense fp32": dense,
        "dense int8, onnxruntime.quantization": peer_int8(dense, w, out / "extra" / "peer-int8"),
        "dense int8, penjing": pj.export(ours.model, w.example, out / "extra" / "dense-int8"),
        "dense control int8": control(w, epochs, out / "extra" / "control-int8"),
    }
    rows: dict[str, Any] = {}
    for name, artifact in {**others, "penjing": run.best}.items():
        search = w.evaluate(artifact.load(), Split.SEARCH)[0].value
        verdict = pj.judge(dense, artifact, w, pj.Contract(max_drop=0.01), family="benchmark")
        rows[name] = {
            "accuracy": verdict.candidate_value,
            "search_accuracy": search,
            "verdict": verdict.to_data(),
            "size_bytes": artifact.size_bytes,
            "latency": {str(n): pj.measure(artifact, w.example.with_batch(n), seconds=3.0).to_data() for n in (1, 32)},
        }
        if artifact is not run.best:
            rows[name]["penjing_is_faster_by"] = {
                str(n): vars_of(pj.measure(run.best, w.example.with_batch(n), against=artifact, seconds=4.0).ratio)
                for n in (1, 32)
            }
        print(json.dumps({name: rows[name]["accuracy"], "ratio": rows[name].get("penjing_is_faster_by")}), flush=True)
    figures = {"recipe": winner.get("recipe"), "epochs": epochs, "original_epochs": EPOCHS, "rows": rows}
    record("resnet20_fashion", figures)
    shutil.rmtree(out / "scratch", ignore_errors=True)


def vars_of(ratio: Any) -> dict[str, float]:
    return {"value": ratio.value, "low": ratio.low, "high": ratio.high}


if __name__ == "__main__":
    main()
