"""The same dense ResNet-20 in int8 by Penjing and by onnxruntime.quantization, in ONNX Runtime, on one thread.

    python -m benchmarks.quantize_peer [--seconds 4]

Both quantise statically, U8S8, per output channel, on the same 512 images; ONNX Runtime's own tool first runs its
quant_pre_process and writes QDQ. Weights are random and batch norms have seen the data, so that no training is needed:
fidelity is the signal-to-noise ratio of the outputs against the fp32 file, in dB, on images that calibrated nothing.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import penjing as pj
from benchmarks.common import record
from benchmarks.resnet20_fashion import peer_int8, vars_of
from penjing.runtimes import Artifact, Session
from penjing.workload import resnet20

BATCHES = (1, 32)


def smooth_images(n: int, seed: int) -> Tensor:
    """Random images [n, 1, 28, 28] whose energy lies in low frequencies, as in photographs; unit variance each."""
    noise = torch.randn(n, 1, 7, 7, generator=torch.Generator().manual_seed(seed))
    images = nn.functional.interpolate(noise, size=28, mode="bicubic")
    return images / images.std((2, 3), keepdim=True)


def network(seed: int = 0) -> nn.Module:
    """Give a ResNet-20 with random weights whose batch norms hold the statistics of the images."""
    torch.manual_seed(seed)
    model = resnet20().train()
    with torch.no_grad():
        for images in smooth_images(1024, seed=1).split(64):
            model(images)
    return model.eval()


def sqnr_db(reference: Session, session: Session, images: Tensor) -> float:
    """Signal over quantisation noise, 10*log10(sum r^2 / sum (r - q)^2), of the outputs about their mean per class."""
    expected, found = (np.asarray(each(images), dtype=np.float64) for each in (reference, session))
    signal = expected - expected.mean(axis=0)  # what is the same for all images tells them not apart
    return float(10 * np.log10((signal**2).sum() / ((expected - found) ** 2).sum()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="of timing, for each candidate and batch size")
    args = parser.parse_args()

    model, images = network(), smooth_images(512, seed=2)
    workload = pj.Workload(model, images[:32], calibration=[(batch,) for batch in images.split(64)])
    held_out = smooth_images(512, seed=3)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dense = pj.export(model, workload.example, folder / "fp32")
        ours = pj.export(pj.apply(workload, pj.Quantize("int8")).model, workload.example, folder / "penjing")
        theirs = peer_int8(dense, workload, folder / "onnxruntime")
        rows = {
            name: row(artifact, dense, workload, held_out, args.seconds)
            for name, artifact in {"fp32": dense, "onnxruntime.quantization": theirs, "penjing": ours}.items()
        }
        faster = {
            str(n): vars_of(
                pj.measure(ours, workload.example.with_batch(n), against=theirs, seconds=args.seconds).ratio
            )
            for n in BATCHES
        }
    for n, ratio in faster.items():
        print(f"batch {n}: penjing is {ratio['value']:.3f}x [{ratio['low']:.3f}, {ratio['high']:.3f}] as fast")
    record("quantize_peer", {"model": "resnet20, random weights", "rows": rows, "penjing_is_faster_by": faster})


def row(artifact: Artifact, dense: Artifact, workload: pj.Workload, images: Tensor, seconds: float) -> dict[str, Any]:
    itself = artifact is dense
    latency = {
        n: pj.measure(artifact, workload.example.with_batch(n), against=None if itself else dense, seconds=seconds)
        for n in BATCHES
    }
    found = {
        "size_bytes": artifact.size_bytes,
        "sqnr_db": None if itself else sqnr_db(dense.load(), artifact.load(), images),
        "latency": {str(n): each.to_data() for n, each in latency.items()},
    }
    print(f"{artifact.path.name}: {found['size_bytes']:,} bytes, SQNR {found['sqnr_db']} dB")
    for each in latency.values():
        print(f"  {each}", flush=True)
    return found


if __name__ == "__main__":
    main()
