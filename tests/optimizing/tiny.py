"""A search that takes seconds: a small network on the digits, two recipes, short measuring. Also a program to kill.

python tiny.py WEIGHTS RUN_FOLDER
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from penjing.measuring import Memory, measure
from penjing.optimizing import Run, actions, optimize
from penjing.recipe import Contract, Finetune, PruneChannels, Quantize, Recipe
from penjing.runtimes import Artifact
from penjing.storage import load_tensors, save_tensors
from penjing.workload import Workload, digits

# Sizes are the same on every machine, so that what is chosen is as well.
CONTRACT = Contract(max_drop=0.1, minimize="size")
RECIPES = (
    Recipe([Quantize()]),
    Recipe([PruneChannels(0.5, of="macs", round_to=8), Finetune(epochs=1, precision="fp32"), Quantize()]),
)


def workload(weights: Path, certificate: int = 697, model: nn.Module | None = None) -> Workload:
    """Give the workload, with the weights in that file, which is written if need be."""
    torch.manual_seed(0)
    images, labels = digits()

    def batches(start: int, stop: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(zip(images[start:stop].split(64), labels[start:stop].split(64), strict=True))

    if model is None:
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    if weights.exists():
        model.load_state_dict(load_tensors(weights))
    else:
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        for _ in range(8):
            for inputs, target in batches(0, 800):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), target).backward()
                optimizer.step()
        save_tensors(weights, model.state_dict())
    return Workload(
        model.eval(),
        images[:8],
        train=batches(0, 256),
        evaluation=batches(800, 1100),
        certificate=batches(1100, 1100 + certificate),
        loss=nn.functional.cross_entropy,
        name="tiny",
    )


def quick_measure(artifact: Artifact, example: Any, *, against: Artifact | None = None, seconds: float = 0.0) -> Any:
    return measure(artifact, example, against=against, seconds=0.01)


def quick_memory(artifact: Artifact, example: Any) -> Memory:
    return Memory(model_bytes=3 * artifact.size_bytes, process_bytes=10**8, batch=8)


def two_recipes(**_: Any) -> tuple[Recipe, ...]:
    return RECIPES


SHORT = {"measure": quick_measure, "memory": quick_memory, "candidates": two_recipes, "epoch_seconds": lambda _: 1.0}


def run(weights: Path, out: Path) -> Run:
    """Search, with what takes long cut short."""
    return optimize(workload(weights), CONTRACT, budget="1h", out=out)


if __name__ == "__main__":
    for name, short in SHORT.items():
        setattr(actions, name, short)
    run(Path(sys.argv[1]), Path(sys.argv[2]))
