"""How long capturing and profiling ResNet-50 takes; the target is a profile within 2 s once it is captured.

    python -m benchmarks.profile_speed [--rounds 5]

ResNet-50 of He et al. 2016, "Deep Residual Learning for Image Recognition" (arXiv:1512.03385), in plain torch, with the
stride on the 3x3 convolution. Its known size (25.6M parameters, 4.09 GMACs at 224x224) checks the profile's counts.
"""

import argparse
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.common import record
from penjing.profiling import Profile
from penjing.profiling.profile import profile_captured
from penjing.structure import capture
from penjing.workload import ExampleInputs

TARGET_S = 2.0
PARAMS, GMACS = 25_557_032, 4.09


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut; four times as many channels leave as are inside."""

    def __init__(self, inputs: int, inside: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * inside
        self.body = nn.Sequential(
            *(nn.Conv2d(inputs, inside, 1, bias=False), nn.BatchNorm2d(inside), nn.ReLU()),
            *(nn.Conv2d(inside, inside, 3, stride, 1, bias=False), nn.BatchNorm2d(inside), nn.ReLU()),
            *(nn.Conv2d(inside, outputs, 1, bias=False), nn.BatchNorm2d(outputs)),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet50() -> nn.Module:
    stem = (nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    blocks: list[nn.Module] = []
    inputs = 64
    for stage, depth in enumerate((3, 4, 6, 3)):
        inside = 64 << stage
        for i in range(depth):
            blocks.append(Bottleneck(inputs, inside, 2 if stage and not i else 1))
            inputs = 4 * inside
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))
    return nn.Sequential(*stem, *blocks, *head).eval()


def once(model: nn.Module, example: ExampleInputs) -> tuple[float, float, Profile]:
    """Capture and profile; give the seconds of each."""
    start = time.perf_counter()
    captured = capture(model, example)
    middle = time.perf_counter()
    found = profile_captured(model, captured, example)
    return middle - start, time.perf_counter() - middle, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    model, example = resnet50(), ExampleInputs.of(torch.zeros(1, 3, 224, 224))
    rounds = [once(model, example) for _ in range(args.rounds)]
    found = rounds[-1][2]
    if found.params != PARAMS or round(found.macs / 1e9, 2) != GMACS:
        raise SystemExit(f"ResNet-50 has {PARAMS:,} parameters and {GMACS} GMACs, not {found.params:,}, {found.macs:,}")
    figures: dict[str, Any] = {"params": found.params, "macs": found.macs, "target_profile_s": TARGET_S}
    for i, what in enumerate(("capture_s", "profile_s")):
        seconds = [each[i] for each in rounds]
        # The first round pays for what torch loads when it exports for the first time.
        figures[what] = {
            "first": seconds[0],
            "median": float(np.median(seconds)),
            "min": min(seconds),
            "max": max(seconds),
        }
        print(f"{what:10} median {figures[what]['median']:.2f}, first {seconds[0]:.2f}, max {max(seconds):.2f}")
    figures["met"] = figures["profile_s"]["median"] <= TARGET_S
    print(f"target: a profile within {TARGET_S} s of capture; {'met' if figures['met'] else 'missed'}")
    record("profile_speed", {"rounds": args.rounds, **figures})


if __name__ == "__main__":
    main()
