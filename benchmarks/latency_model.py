"""How well the latency of a pruned network is predicted: widths held out, and whole architectures held out.

    python -m benchmarks.latency_model [--variants 36] [--only resnet20-onnxruntime]

Each network is cut at random widths, exported and timed in turns with the whole network (one pinned thread). Held out
by width: each version is predicted by a model fitted to the other versions of the same network, an eighth left out at a
time. Held out by architecture: the versions of a network are predicted by a model fitted to the versions of all other
networks in the same runtime, scaled by one measurement, that of the whole network. Measurements are kept in runs/, so
that a second call resumes.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.common import record
from penjing.measuring.features import features
from penjing.measuring.latency_model import Sample, fit, left_out
from penjing.measuring.target import measured_variant, time_of
from penjing.measuring.variants import variants
from penjing.runtimes import export
from penjing.structure import Coupling, GraphModel, couple
from penjing.workload import ExampleInputs, ResNet

FOLDER = Path("runs/bench-latency-model")


def separable(before: int, after: int, stride: int) -> nn.Sequential:
    """A depthwise and a pointwise convolution, each with its norm, as in MobileNet v1."""
    return nn.Sequential(
        nn.Conv2d(before, before, 3, stride, 1, groups=before, bias=False),
        nn.BatchNorm2d(before),
        nn.ReLU6(),
        nn.Conv2d(before, after, 1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU6(),
    )


class Inverted(nn.Module):
    """The inverted residual of MobileNet v2: wide inside, depthwise, and narrow where blocks are added up."""

    def __init__(self, before: int, after: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = before * expand
        self.body = nn.Sequential(
            nn.Conv2d(before, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            *separable(wide, after, stride)[:5],
        )
        self.adds = stride == 1 and before == after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)
        return x + y if self.adds else y


def mobile_v1() -> nn.Module:
    widths = ((32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2))
    return nn.Sequential(nn.Conv2d(1, 32, 3, 2, 1), nn.ReLU(), *(separable(*each) for each in widths), *_head(512))


def mobile_v2() -> nn.Module:
    widths = ((32, 32, 1, 4), (32, 64, 2, 4), (64, 64, 1, 4), (64, 96, 2, 4), (96, 96, 1, 4), (96, 160, 2, 4))
    return nn.Sequential(nn.Conv2d(1, 32, 3, 2, 1), nn.ReLU6(), *(Inverted(*each) for each in widths), *_head(160))


def plain() -> nn.Module:
    layers: list[nn.Module] = []
    for before, after, pool in ((1, 32, False), (32, 64, True), (64, 128, True), (128, 128, False), (128, 256, True)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if pool else []
    return nn.Sequential(*layers, *_head(256))


def _head(width: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)]


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet20": (lambda: ResNet((3, 3, 3), (16, 32, 64)), (8, 1, 28, 28)),
    "resnet-narrow": (lambda: ResNet((2, 2, 2), (24, 48, 96)), (8, 1, 28, 28)),
    "resnet-wide": (lambda: ResNet((1, 1, 1, 1), (32, 64, 128, 256)), (4, 1, 32, 32)),
    "plain": (plain, (4, 1, 32, 32)),
    "mobile-v1": (mobile_v1, (4, 1, 64, 64)),
    "mobile-v2": (mobile_v2, (4, 1, 64, 64)),
}
RUNTIMES = ("onnxruntime", "openvino")


def samples(name: str, runtime: str, count: int) -> list[Sample]:
    """Measure versions of a network, in milliseconds, the whole network first; what was measured before is read."""
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    model, example = make().eval(), ExampleInputs.of(torch.randn(*shape))
    coupling = couple(model, example)
    drawn = list(islice(variants(coupling), count))
    shapes = [coupling.captured.shapes, *(coupling.shapes_after(removed) for removed in drawn)]
    counts = [features(coupling.captured.module.graph, each) for each in shapes]
    return list(map(Sample, counts, latencies(coupling, drawn, example, FOLDER / f"{name}-{runtime}.jsonl", runtime)))


def latencies(
    coupling: Coupling, drawn: Sequence[dict[str, Any]], example: ExampleInputs, path: Path, runtime: str
) -> list[float]:
    """The milliseconds of the whole network and of each version, one a line of a file that a second call reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = [json.loads(line)["latency"] for line in path.read_text().splitlines()] if path.exists() else []
    if len(kept) > len(drawn):
        return kept[: len(drawn) + 1]
    with tempfile.TemporaryDirectory() as folder, path.open("a") as file:
        whole = export(GraphModel.of(coupling.captured), example, Path(folder) / "whole", runtime)
        if not kept:
            kept.append(time_of(whole, example))
            file.write(json.dumps({"latency": kept[0]}) + "\n")
        for removed in drawn[len(kept) - 1 :]:
            kept.append(measured_variant(coupling, removed, whole, example).latency * kept[0])
            file.write(json.dumps({"latency": kept[-1]}) + "\n")
            file.flush()
    return kept


def by_architecture(name: str, of: dict[str, list[Sample]]) -> np.ndarray[Any, Any]:
    """Errors on one network of a model that saw only the others, scaled by the measurement of the whole network."""
    model = fit([sample for other, each in of.items() if other != name for sample in each])
    whole, *rest = of[name]
    scale = whole.latency / model.predict(whole.counts)
    return np.array([abs(scale * model.predict(s.counts) / s.latency - 1) for s in rest])


def figures(errors: Any) -> dict[str, float]:
    return {"median": float(np.median(errors)), "p90": float(np.quantile(errors, 0.9))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", type=int, default=36, help="of each network in each runtime")
    parser.add_argument("--only", help="one network and runtime, such as resnet20-onnxruntime; nothing is recorded")
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    pooled: dict[str, Any] = {}
    for runtime in RUNTIMES:
        of: dict[str, list[Sample]] = {}
        for name in NETWORKS:
            if arguments.only in (None, f"{name}-{runtime}"):
                of[name] = samples(name, runtime, arguments.variants)
                print(name, runtime, figures(left_out(of[name])), flush=True)
        if arguments.only is None:
            pooled[runtime] = {
                "held_out_by_width": figures(np.concatenate([left_out(each) for each in of.values()])),
                "held_out_by_architecture": figures(np.concatenate([by_architecture(name, of) for name in of])),
            }
            results[runtime] = {
                name: {
                    "whole_ms": each[0].latency,
                    "versions": len(each) - 1,
                    "faster_or_slower": [
                        float(np.quantile([s.latency / each[0].latency for s in each], q)) for q in (0, 1)
                    ],
                    "held_out_by_width": figures(left_out(each)),
                    "held_out_by_architecture": figures(by_architecture(name, of)),
                }
                for name, each in of.items()
            }
    if results:
        record("latency_model", {"pooled": pooled, "networks": results})


if __name__ == "__main__":
    main()
