"""`deploy`: the same model in the runtime, number format and session options that are fastest here."""

from pathlib import Path
from typing import Annotated

import typer

from penjing.cli.progress import Bar
from penjing.cli.shared import EXIT, Json, WorkloadFile, console, print_json, read_workload


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("deploy")(deploy_command)


def deploy_command(
    workload: WorkloadFile,
    out: Annotated[Path, typer.Option("--out", help="New folder for the files.")],
    model: Annotated[Path | None, typer.Option("--model", help="Folder that `apply` saved; else the original.")] = None,
    runtime: Annotated[list[str] | None, typer.Option("--runtime", help="Only this one; may be repeated.")] = None,
    max_drop: Annotated[float, typer.Option("--max-drop", help="What may be lost; 0.01 is one point.")] = 0.005,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Samples in a call.")] = None,
    threads: Annotated[int, typer.Option("--threads", min=1)] = 1,
    as_json: Json = False,
) -> None:
    """Try every runtime, number format and option that is installed; certify and keep the fastest."""
    import copy

    from penjing.optimizing import deploy
    from penjing.recipe import Contract
    from penjing.techniques import restore

    loaded = read_workload(workload)
    if batch is not None:
        loaded = loaded.with_batch(batch)
    network = loaded.model if model is None else restore(copy.deepcopy(loaded.model), model)
    with Bar(quiet=as_json) as bar:
        found = deploy(loaded, Contract(max_drop), out, model=network, runtimes=runtime, threads=threads, progress=bar)
    if as_json:
        print_json(found.to_data())
    else:
        console.print(found.table(), markup=False, highlight=False, soft_wrap=True)
        console.print(
            found.verdict.sentence() if found.verdict else "Nothing faster is certified; the reference stays.",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        console.print(f"ships: {found.best.path}", markup=False, highlight=False, soft_wrap=True)
    if found.verdict is not None:
        raise typer.Exit(EXIT[found.verdict.outcome])
