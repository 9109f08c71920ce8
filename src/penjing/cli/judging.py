"""`judge`: decide whether one deployed file may replace another."""

from pathlib import Path
from typing import Annotated

import typer

from penjing.cli.shared import EXIT, Json, WorkloadFile, console, print_json, read_workload

ArtifactFolder = Annotated[Path, typer.Argument(help="Folder that `export` wrote.")]


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("judge")(judge_command)


def judge_command(
    workload: WorkloadFile,
    reference: ArtifactFolder,
    candidate: ArtifactFolder,
    max_drop: Annotated[float, typer.Option("--max-drop", help="What may be lost; 0.01 is one point.")] = 0.005,
    relative: Annotated[bool, typer.Option("--relative", help="As a share of the reference's value.")] = False,
    confidence: Annotated[float, typer.Option("--confidence")] = 0.95,
    as_json: Json = False,
) -> None:
    """Judge a deployed file on the certificate split. Exit code 0 pass, 1 fail, 3 undecided."""
    from penjing.recipe import Contract
    from penjing.runtimes import Artifact
    from penjing.verdict import judge

    contract = Contract(max_drop, relative, confidence)
    verdict = judge(Artifact.open(reference), Artifact.open(candidate), read_workload(workload), contract)
    if as_json:
        print_json(verdict.to_data())
    else:
        console.print(verdict.sentence(), markup=False, highlight=False)
    raise typer.Exit(EXIT[verdict.outcome])
