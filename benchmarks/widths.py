"""What the widths of a ResNet-20 cost in ONNX Runtime, fp32 and int8: MACs do not tell.

    python -m benchmarks.widths [--seconds 2]

Networks of the shape of ResNet-20 with widths set by hand, random weights, on 28x28 images. Each is timed in turns with
the dense one of the same format on one pinned thread, so that each figure is a paired ratio: above 1 is faster than
dense. "inside" is the width between the two convolutions of a block, "outside" that of the residual stream.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import penjing as pj
from benchmarks.common import record
from benchmarks.resnet20_fashion import vars_of
from penjing.runtimes import Artifact
from penjing.workload import BasicBlock, ResNet

DENSE = (16, 32, 64)
BATCHES = (1, 32)
Widths = tuple[int, ...]

# As measured for the design, and multiples of 4, 8, 12 and 16 inside the blocks of the dense stream.
CASES: tuple[tuple[Widths, Widths], ...] = (
    (DENSE, DENSE),
    *((widths, widths) for widths in ((11, 22, 45), (12, 24, 48), (9, 18, 36), (8, 16, 32), (7, 15, 31))),
    *((DENSE, inside) for inside in ((8, 16, 32), (4, 8, 16), (12, 24, 48), (4, 12, 28), (12, 12, 12), (16, 16, 16))),
)


class Network(ResNet):
    """A ResNet-20 whose blocks have widths of their own inside."""

    def __init__(self, outside: Sequence[int], inside: Sequence[int]) -> None:
        super().__init__((3, 3, 3), outside)
        for i, block in enumerate(self.blocks):
            assert isinstance(block, BasicBlock)
            width, conv = inside[i // 3], block.conv1
            block.conv1 = nn.Conv2d(conv.in_channels, width, 3, conv.stride, 1, bias=False)
            block.bn1 = nn.BatchNorm2d(width)
            block.conv2 = nn.Conv2d(width, block.conv2.out_channels, 3, padding=1, bias=False)


def build(outside: Widths, inside: Widths, folder: Path) -> dict[str, Any]:
    """Write a network in both formats; give the artefacts and the MACs of one image."""
    torch.manual_seed(0)
    model = Network(outside, inside).eval()
    images = torch.randn(32, 1, 28, 28)
    workload = pj.Workload(model, images, calibration=[(images,)])
    quantized = pj.apply(workload, pj.Quantize("int8", method="minmax")).model
    return {
        "macs": pj.profile(model, images[:1]).macs,
        "fp32": pj.export(model, images, folder / "fp32"),
        "int8": pj.export(quantized, images, folder / "int8"),
    }


def compare(candidate: Artifact, dense: Artifact, seconds: float) -> dict[str, Any]:
    """Time a candidate in turns with the dense one at each batch size."""
    found: dict[str, Any] = {}
    for n in BATCHES:
        latency = pj.measure(candidate, torch.randn(n, 1, 28, 28), against=dense, seconds=seconds)
        found[str(n)] = {
            "median_ms": latency.median_ms,
            "cpu_ms": latency.cpu_ms,
            "noise": latency.noise,
            "faster_than_dense": vars_of(latency.ratio),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing, for each candidate, format and batch")
    args = parser.parse_args()

    columns = [(number_format, str(n)) for number_format in ("fp32", "int8") for n in BATCHES]
    print(f"{'outside':>12} {'inside':>12} {'MMACs':>6}", *(f"{f'{f} x{n}':>18}" for f, n in columns))
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        dense = build(DENSE, DENSE, Path(temporary) / "dense")
        for i, (outside, inside) in enumerate(CASES):
            built = build(outside, inside, Path(temporary) / str(i))
            times = {f: compare(built[f], dense[f], args.seconds) for f in ("fp32", "int8")}
            rows.append({"outside": outside, "inside": inside, "macs": built["macs"], **times})
            cells = [
                f"{times[f][n]['cpu_ms']:7.3f} ms {times[f][n]['faster_than_dense']['value']:5.2f}x" for f, n in columns
            ]
            names = ["/".join(map(str, widths)) for widths in (outside, inside)]
            print(f"{names[0]:>12} {names[1]:>12} {built['macs'] / 1e6:6.1f}", *(f"{c:>18}" for c in cells), flush=True)
    record("widths", {"seconds": args.seconds, "rows": rows})


if __name__ == "__main__":
    main()
