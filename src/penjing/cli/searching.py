"""`optimize`, `resume`, `report`: search under a contract, go on, look again."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penjing.cli.progress import Bar
from penjing.cli.shared import EXIT, ExitCode, Json, RuntimeName, WorkloadFile, console, print_json, read_workload
from penjing.errors import PenjingError, RunError

if TYPE_CHECKING:
    from penjing.optimizing import Run
    from penjing.workload import Workload

COMMAND = "command.json"


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("optimize")(optimize_command)
    app.command("resume")(resume_command)
    app.command("report")(report_command)


def optimize_command(
    workload: WorkloadFile,
    max_drop: Annotated[float, typer.Option("--max-drop", help="What may be lost; 0.01 is one point.")] = 0.005,
    relative: Annotated[bool, typer.Option("--relative", help="As a share of the reference's value.")] = False,
    confidence: Annotated[float, typer.Option("--confidence")] = 0.95,
    max_latency_ms: Annotated[float | None, typer.Option("--max-latency-ms")] = None,
    max_size_bytes: Annotated[int | None, typer.Option("--max-size-bytes")] = None,
    max_memory_bytes: Annotated[int | None, typer.Option("--max-memory-bytes")] = None,
    minimize: Annotated[str, typer.Option("--minimize", help="latency, size, memory or macs.")] = "latency",
    runtime: RuntimeName = "onnxruntime",
    budget: Annotated[str, typer.Option("--budget", help="Time for the search: 90s, 30m, 2h.")] = "30m",
    out: Annotated[Path | None, typer.Option("--out", help="Run folder (default: runs/WORKLOAD).")] = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    as_json: Json = False,
) -> None:
    """Search for the fastest or smallest model that the contract allows, and certify it.

    Exit code 0 pass, 1 fail, 3 undecided. The same command goes on where an interrupted one stopped.
    """
    folder = out if out is not None else Path("runs") / workload.stem
    contract = {
        "max_drop": max_drop,
        "relative": relative,
        "confidence": confidence,
        "max_latency_ms": max_latency_ms,
        "max_size_bytes": max_size_bytes,
        "max_memory_bytes": max_memory_bytes,
        "minimize": minimize,
    }
    command = {
        "workload": str(workload.resolve()),
        "contract": contract,
        "runtime": runtime,
        "budget": budget,
        "seed": seed,
    }
    carry_out(read_workload(workload), command, folder, as_json)


def resume_command(
    run: Annotated[Path, typer.Argument(help="Run folder of `penjing optimize`.")], as_json: Json = False
) -> None:
    """Go on with a run that was interrupted, with the terms it was started with."""
    path = run / COMMAND
    if not path.is_file():
        raise RunError(f"{run} holds no {COMMAND}; resume takes a folder that `penjing optimize` wrote")
    try:
        command = json.loads(path.read_text("utf-8"))
    except ValueError as problem:
        raise RunError(f"{path} is damaged ({problem}); start the run again with `penjing optimize`") from problem
    carry_out(read_workload(Path(command["workload"])), command, run, as_json)


def report_command(
    run: Annotated[Path, typer.Argument(help="Run folder of `penjing optimize`.")],
    price_per_hour: Annotated[float | None, typer.Option("--price-per-hour", help="Of a machine; adds cost.")] = None,
    rate: Annotated[float | None, typer.Option("--rate", help="Samples per second to serve; with a price.")] = None,
    utilisation: Annotated[float, typer.Option("--utilisation", help="Share of time a machine is busy.")] = 1.0,
    as_json: Json = False,
) -> None:
    """Write the report of a run again, finished or not, from its journal."""
    from penjing.reporting import Pricing, compose, print_summary, write_report
    from penjing.runs import read_journal

    if rate is not None and price_per_hour is None:
        raise PenjingError(f"--rate is {rate} without a price; add --price-per-hour")
    pricing = None if price_per_hour is None else Pricing(price_per_hour, rate, utilisation)
    data = compose(read_journal(run), pricing)
    path = write_report(run, data)
    if as_json:
        print_json(data.model_dump(mode="json"))
    else:
        print_summary(data, console)
        console.print(f"report: {path}", markup=False, highlight=False)


def carry_out(workload: "Workload", command: dict[str, Any], folder: Path, as_json: bool) -> None:
    """Optimise, show what came out, and leave with the verdict's exit code.

    The terms are kept beside the journal, so that `resume` needs the folder alone; those of a run that has begun stay.
    """
    from penjing.optimizing import optimize
    from penjing.recipe import Contract
    from penjing.runs.journal import NAME, read_journal
    from penjing.storage import atomic_write

    contract = Contract(**command["contract"])
    if not ((folder / NAME).exists() and read_journal(folder)):
        atomic_write(folder / COMMAND, json.dumps(command, indent=2))
    with Bar(quiet=as_json) as bar:
        run = optimize(
            workload,
            contract,
            runtime=command["runtime"],
            budget=command["budget"],
            out=folder,
            seed=command["seed"],
            progress=bar,
        )
    show(run, as_json)


def show(run: "Run", as_json: bool) -> None:
    """Print a finished run and leave with the verdict's exit code."""
    from penjing.reporting import print_summary, read_report

    data = read_report(run.folder)
    if as_json:
        print_json(data.model_dump(mode="json"))
    else:
        print_summary(data, console)
        console.print(f"best model: {run.best.path}\nreport: {run.report_path}", markup=False, highlight=False)
    raise typer.Exit(EXIT[run.verdict.outcome] if run.verdict is not None else ExitCode.FAIL)
