"""`bench`, `judge`: measure deployed files, and decide whether one may replace the other."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penjing.cli.shared import EXIT, Json, WorkloadFile, console, print_json, read_workload

if TYPE_CHECKING:
    from penjing.measuring.cost import Cost

ArtifactFolder = Annotated[Path, typer.Argument(help="Folder that `export` wrote.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("bench")(bench_command)
    app.command("judge")(judge_command)


def bench_command(
    workload: WorkloadFile,
    artifact: ArtifactFolder,
    against: Annotated[Path | None, typer.Option("--against", help="Another artefact, interleaved.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Samples in a call.")] = None,
    price_per_hour: Annotated[float | None, typer.Option("--price-per-hour", help="Of a machine; tells cost.")] = None,
    rate: Annotated[float | None, typer.Option("--rate", help="Samples per second to serve; with a price.")] = None,
    utilisation: Annotated[float, typer.Option("--utilisation", help="Share of time a machine is busy.")] = 1.0,
    copies: Annotated[int, typer.Option("--copies", help="Of the model side by side on a machine.")] = 1,
    as_json: Json = False,
) -> None:
    """Measure the latency of a deployed file, alone or against another in fair turns."""
    from penjing.errors import PenjingError
    from penjing.measuring import measure
    from penjing.measuring.cost import cost
    from penjing.runtimes import Artifact

    def priced(samples_per_second: float) -> "Cost | None":
        if price_per_hour is None:
            return None
        return cost(samples_per_second, price_per_hour, rate=rate, utilisation=utilisation, copies=copies)

    if rate is not None and price_per_hour is None:
        raise PenjingError(f"--rate is {rate} without a price; add --price-per-hour")
    priced(1.0)  # refuses bad values before anything is measured
    example = read_workload(workload).example
    if batch is not None:
        example = example.with_batch(batch)
    other = Artifact.open(against) if against is not None else None
    latency = measure(Artifact.open(artifact), example, against=other)
    money = priced(latency.samples_per_second)
    if as_json:
        print_json(latency.to_data() | ({"cost": money.to_data()} if money else {}))
    else:
        console.print(str(latency), markup=False, highlight=False)
        if money:
            console.print(str(money), markup=False, highlight=False)


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
