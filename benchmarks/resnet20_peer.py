"""ResNet-20 on Fashion-MNIST, half and three quarters of the MACs removed: Penjing beside Torch-Pruning.

    python -m benchmarks.resnet20_peer [--seeds 0 1 2] [--only tp-l2 control]

For each seed a dense network is trained, then pruned by Penjing (score="auto", at widths that are multiples of 8 and at
any) and by Torch-Pruning with two of its usual scores, and all are trained on with the same recipe, epochs and teacher;
so is the dense network itself, as control. Accuracy is that of the exported file on the 10,000 test images. Latency is
the ratio of the exported files (ONNX Runtime, fp32, one pinned thread), measured in turns. Exported files are kept in
runs/, so that a second call resumes.
"""

import argparse
import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import penjing as pj
from benchmarks.common import record
from penjing.recipe import Finetune
from penjing.runtimes import Artifact
from penjing.training import finetune
from penjing.types import Split

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from fashion_mnist import DATA, trained, workload

DENSE_EPOCHS, EPOCHS = 14, 2
RECOVERY = Finetune(epochs=EPOCHS)
REMOVED = (50, 75)
FOLDER = Path("runs/bench-peer")
PEER_SCORES = ("l2", "taylor")


def macs(model: nn.Module, w: pj.Workload) -> float:
    """Count what convolutions and linear layers multiply for one image, by torch's own counter."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*w.example.with_batch(1).args)
    return counter.get_total_flops() / 2


def penjing_cut(round_to: int | None) -> Callable[[pj.Workload, int], nn.Module]:
    def cut(w: pj.Workload, removed: int) -> nn.Module:
        step = pj.PruneChannels(ratio=removed / 100, of="macs", score="auto", round_to=round_to)
        outcome = pj.apply(w, step)
        for row in outcome.log:
            print("   ", row.what, flush=True)
        return outcome.model

    return cut


def torch_pruning_cut(score: str) -> Callable[[pj.Workload, int], nn.Module]:
    """Torch-Pruning 1.6 as its examples use it: global, in a hundred steps at most, until the MACs are reached."""

    def cut(w: pj.Workload, removed: int) -> nn.Module:
        import torch_pruning as tp

        model = copy.deepcopy(w.model).eval()
        importance = {
            "l2": tp.importance.GroupMagnitudeImportance(p=2),
            "batch-norm": tp.importance.BNScaleImportance(),
            "taylor": tp.importance.GroupTaylorImportance(),
        }[score]
        example = w.example.with_batch(1).args[0]
        pruner = tp.pruner.BasePruner(
            model,
            example,
            importance,
            global_pruning=True,
            pruning_ratio=0.98,
            max_pruning_ratio=0.95,
            iterative_steps=100,
            ignored_layers=[m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == 10],
        )
        target = macs(model, w) * (1 - removed / 100)
        while macs(model, w) > target:
            if score == "taylor":
                model.zero_grad()
                for i, batch in zip(range(4), w.train_batches(), strict=False):
                    del i
                    nn.functional.cross_entropy(model(*batch.args), batch.target).backward()
            pruner.step()
        model.zero_grad()
        return model

    return cut


METHODS: dict[str, Callable[[pj.Workload, int], nn.Module]] = {
    "penjing": penjing_cut(round_to=8),
    "penjing-any-width": penjing_cut(round_to=None),
    **{f"tp-{score}": torch_pruning_cut(score) for score in PEER_SCORES},
}


def carry_out(w: pj.Workload, seed: int, name: str, removed: int) -> dict[str, Any]:
    """Cut, recover, export and evaluate one network; kept by name."""
    folder = FOLDER / f"seed-{seed}" / (name if name == "control" else f"{name}-{removed}")
    notes = folder.with_suffix(".json")
    if notes.exists():
        found: dict[str, Any] = json.loads(notes.read_text("utf-8"))
        return found
    model = copy.deepcopy(w.model) if name == "control" else METHODS[name](w, removed)
    before = w.evaluate(model.eval(), Split.SEARCH)[0].value
    share = macs(model, w) / macs(w.model, w)
    finetune(model, w, RECOVERY, teacher=w.model, seed=seed)
    artifact = pj.export(model.eval(), w.example, folder)
    found = {
        "method": name,
        "removed": 0 if name == "control" else removed,
        "macs_left": share,
        "params": sum(p.numel() for p in model.parameters()),
        "search_accuracy_before_recovery": before,
        "accuracy": test_accuracy(artifact, w),
        "path": str(artifact.path),
    }
    notes.write_text(json.dumps(found, indent=1), "utf-8")
    print(json.dumps({"seed": seed, **found}), flush=True)
    return found


def test_accuracy(artifact: Artifact, w: pj.Workload) -> float:
    """On the test images: nothing here is chosen by them."""
    folder = artifact.path.with_name("dense")
    dense = Artifact.open(folder) if folder.exists() else pj.export(w.model, w.example, folder)
    return pj.judge(dense, artifact, w, pj.Contract(max_drop=0.01), family="benchmark").candidate_value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=["control", *METHODS], help="methods to carry out")
    parser.add_argument("--data", type=Path, default=DATA)
    args = parser.parse_args()
    torch.set_num_threads(1)

    rows: list[dict[str, Any]] = []
    for seed in args.seeds:
        w = workload(trained("resnet20", args.data, Path(".cache"), DENSE_EPOCHS, seed), args.data, seed=seed)
        for name in args.only:
            for removed in REMOVED[:1] if name == "control" else REMOVED:
                rows.append({"seed": seed, **carry_out(w, seed, name, removed)})
    for row in rows:
        if row["method"].startswith("penjing"):
            row["times_faster"] = faster(row, [r for r in rows if r["seed"] == row["seed"] and r is not row], args.data)
    record("resnet20_peer", {"epochs": EPOCHS, "dense_epochs": DENSE_EPOCHS, "rows": rows, "summary": summary(rows)})


def faster(ours: dict[str, Any], others: list[dict[str, Any]], data: Path) -> dict[str, Any]:
    """How many times faster our file is than each other one at the same budget, and than the control."""
    example = workload(trained("resnet20", data, Path(".cache"), DENSE_EPOCHS, ours["seed"]), data).example
    mine, found = Artifact.open(Path(ours["path"])), {}
    for other in others:
        if other["removed"] in (0, ours["removed"]):
            for size in (1, 32):
                ratio = pj.measure(
                    mine, example.with_batch(size), against=Artifact.open(Path(other["path"])), seconds=3.0
                ).ratio
                found[f"{other['method']}, batch {size}"] = {"value": ratio.value, "low": ratio.low, "high": ratio.high}
    return found


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean accuracy over the seeds, with its standard deviation."""
    found = []
    for method, removed in dict.fromkeys((row["method"], row["removed"]) for row in rows):
        values = [row["accuracy"] for row in rows if (row["method"], row["removed"]) == (method, removed)]
        spread = stdev(values) if len(values) > 1 else None
        found.append({"method": method, "removed": removed, "accuracy": mean(values), "deviation": spread})
    return found


if __name__ == "__main__":
    main()
