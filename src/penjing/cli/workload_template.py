"""What Penjing needs to know: the model, how it is called, its data, its metric. Runs as it is; put yours in."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

import penjing as pj
from penjing.workload import digits

WEIGHTS = Path(__file__).with_suffix(".safetensors")


def network() -> nn.Module:
    """Give the model, without its weights."""
    return nn.Sequential(
        nn.Conv2d(1, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, 128, 3, stride=2, padding=1),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Train for a few seconds; with your own model, load your own weights instead."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(15):
        for index in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[index]), labels[index]).backward()
            optimizer.step()


def workload() -> pj.Workload:
    """Give the workload: Penjing calls this function."""
    torch.manual_seed(0)
    images, labels = digits()
    model = network()
    if WEIGHTS.exists():
        model.load_state_dict(load_file(WEIGHTS))
    else:
        train(model, images[:800], labels[:800])
        save_file(model.state_dict(), WEIGHTS)
    model.eval()

    def batches(start: int, stop: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(zip(images[start:stop].split(64), labels[start:stop].split(64), strict=True))

    return pj.Workload(
        model,
        images[:32],  # an example of what the model is called with; dimension 0 is the batch
        train=batches(0, 800),  # lets pruned models recover; leave out if you cannot train
        evaluation=batches(800, 1100),  # what the search looks at
        certificate=batches(1100, 1797),  # what no decision looks at: the verdict is made on it
        metric=pj.accuracy(),
        loss=nn.functional.cross_entropy,
    )
