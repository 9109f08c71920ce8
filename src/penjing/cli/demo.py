"""`demo`: train a small network on the packaged digits, make it smaller and faster, and certify it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penjing.cli.progress import Bar
from penjing.cli.searching import show
from penjing.cli.shared import Json, console, errors_console

if TYPE_CHECKING:
    from penjing.workload import Workload

TRAIN, SEARCH = 797, 300
EPOCHS, MAX_DROP, BUDGET = 12, 0.02, "75s"


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("demo")(demo_command)


def demo_command(
    out: Annotated[Path, typer.Option("--out", help="Run folder.")] = Path("runs/demo"),
    budget: Annotated[str, typer.Option("--budget", help="Time for the search.")] = BUDGET,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    as_json: Json = False,
) -> None:
    """Train a small ResNet on the packaged digits, optimise it under a contract, print the verdict."""
    from penjing.optimizing import optimize
    from penjing.recipe import Contract

    if not as_json:
        console.print("The digits, 1,797 images of 8x8 pixels. The contract: at most 2 points of accuracy are lost.")
    with Bar(quiet=as_json) as bar:
        workload = trained_digits(out / "original.safetensors", seed, bar)
        run = optimize(workload, Contract(MAX_DROP), budget=budget, out=out / "run", seed=seed, progress=bar)
    show(run, as_json)


def trained_digits(saved: Path, seed: int, bar: Bar) -> "Workload":
    """Give the digits workload with a trained network: from `saved` if it is there, else trained now and saved."""
    import torch

    from penjing.recipe import Finetune
    from penjing.storage import load_tensors, save_tensors
    from penjing.training import finetune
    from penjing.workload import Workload, accuracy, digits
    from penjing.workload.samples import ResNet

    torch.manual_seed(seed)
    model = ResNet((2, 2, 2), (32, 64, 128))
    images, labels = digits()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))

    def batches(start: int, stop: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        index = order[start:stop]
        return list(zip(images[index].split(64), labels[index].split(64), strict=True))

    held_out = TRAIN + SEARCH
    workload = Workload(
        model,
        images[order[:32]],
        train=batches(0, TRAIN),
        evaluation=batches(TRAIN, held_out),
        certificate=batches(held_out, len(images)),
        metric=accuracy(),
        loss=torch.nn.functional.cross_entropy,
        name="ResNet on the packaged digits",
    )
    if saved.exists():
        model.load_state_dict(load_tensors(saved))
    else:
        errors_console.print("training the original ...")
        finetune(model, workload, Finetune(epochs=EPOCHS, lr=0.05, distill=False), seed=seed, progress=bar)
        saved.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(saved, model.state_dict())
    model.eval()
    return workload
