"""`parity`: whether a runtime computes what the simulation of a quantised model computes, layer by layer."""

from pathlib import Path
from typing import Annotated

import typer

from penjing.cli.shared import ExitCode, Json, RuntimeName, WorkloadFile, console, print_json, read_workload


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("parity")(parity_command)


def parity_command(
    workload: WorkloadFile,
    model: Annotated[Path, typer.Option("--model", help="Folder of a quantised model that `apply` saved.")],
    runtime: RuntimeName = "onnxruntime",
    threads: Annotated[int, typer.Option("--threads", min=1)] = 1,
    batches: Annotated[int, typer.Option("--batches", min=0, help="Of calibration data, beside the example.")] = 4,
    as_json: Json = False,
) -> None:
    """Compare a quantised model with its file, layer by layer. Exit code 0 where they agree, 1 where they do not."""
    import copy

    from penjing.runtimes import parity
    from penjing.techniques import read_outcome

    loaded = read_workload(workload)
    outcome = read_outcome(copy.deepcopy(loaded.model), model)
    found = parity(outcome, loaded, runtime, options={"threads": threads}, batches=batches)
    if as_json:
        print_json(found.to_data())
    else:
        console.print(str(found), markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(ExitCode.DONE if found.passed else ExitCode.FAIL)
