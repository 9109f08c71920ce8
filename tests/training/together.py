"""What `torchrun` runs for test_parallel.py: each rank trains in several ways, and writes what it holds at the end."""

import os
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import penjing as pj
from penjing.errors import WorkloadError
from penjing.training import Team, finetune

ODD = 97  # the last batch has one sample: one rank has none


def data(n: int, seed: int) -> TensorDataset:
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, (x[:, 0] > 0).long())


def workload(samples: int, norm: bool = False, dropout: float = 0.0) -> pj.Workload:
    torch.manual_seed(0)
    between = [nn.BatchNorm1d(24)] if norm else []
    model = nn.Sequential(nn.Linear(6, 24), *between, nn.ReLU(), nn.Dropout(dropout), nn.Linear(24, 2))
    train = DataLoader(data(samples, seed=1), 16, shuffle=True)
    held_out = DataLoader(data(60, seed=2), 20)
    return pj.Workload(model, torch.zeros(2, 6), train=train, evaluation=held_out, loss=nn.functional.cross_entropy)


def sparse(folder: Path) -> pj.Outcome:
    recipe = [
        pj.PruneChannels(0.25, round_to=None),
        pj.Sparsify(0.5, schedule="cubic", end=0.5),
        pj.Finetune(3, lr=0.05, clip_norm=1.0, ema=0.5, distill_weight=0.5, precision="fp32"),
    ]
    return pj.apply(workload(ODD), recipe, seed=3, resume_dir=folder / "steps")


def plain(folder: Path) -> dict[str, Tensor]:
    task = workload(ODD)
    log = finetune(task.model, task, pj.Finetune(2, lr=0.1, precision="fp32", distill=False), seed=3)
    return {**task.model.state_dict(), "losses": torch.tensor([row.loss or 0.0 for row in log.rows])}


def with_norms(folder: Path) -> dict[str, Tensor]:
    task = workload(96, norm=True, dropout=0.2)
    settings = pj.Finetune(4, lr=0.5, schedule="constant", ema=0.9, reestimate_norms=True, distill=False)
    log = finetune(task.model, task, settings, seed=3)
    rows = {"metrics": [row.metric for row in log.rows], "averaged": [float(row.averaged) for row in log.rows]}
    return {**task.model.state_dict(), **{k: torch.tensor(v) for k, v in rows.items()}, "drawn": torch.rand(1)}


def distilled(folder: Path) -> dict[str, Tensor]:
    losses = {"task": 0.5, "logits": 0.3, "features": 0.2}
    steps = [pj.PruneChannels(0.5, round_to=None), pj.Distill(2, lr=0.05, losses=losses, precision="fp32")]
    return pj.apply(workload(ODD), steps, seed=3).model.state_dict()


def refused() -> str:
    model = nn.Linear(6, 2 + Team.join().rank)
    try:
        Team.join().align(model)
    except WorkloadError as problem:
        return str(problem)
    return ""


def main(folder: Path) -> None:
    rank = int(os.environ.get("RANK", 0))
    outcome = sparse(folder)
    found = {
        "sparse": dict(outcome.model.state_dict()),
        "masks": dict(outcome.masks),
        "log": [row.what for row in outcome.log],
        "plain": plain(folder),
        "distilled": dict(distilled(folder)),
        "norms": with_norms(folder),
        "refused": refused(),
    }
    torch.save(found, folder / f"rank-{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
