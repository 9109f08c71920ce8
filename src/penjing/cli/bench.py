"""`bench`: measure deployed files: latency, and on request throughput, load, cost, resources, and better options."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penjing.cli.progress import Bar
from penjing.cli.shared import Json, WorkloadFile, console, print_json, read_workload

if TYPE_CHECKING:
    from penjing.measuring.cost import Cost
    from penjing.runtimes import Artifact
    from penjing.workload import ExampleInputs

Part = tuple[str, str, Any]
"""A name in the JSON value, the text, and the data."""


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("bench")(bench_command)


def bench_command(
    workload: WorkloadFile,
    artifact: Annotated[Path, typer.Argument(help="Folder that `export` wrote.")],
    against: Annotated[Path | None, typer.Option("--against", help="Another artefact, interleaved.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Samples in a call.")] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.01, help="For each figure.")] = 2.0,
    concurrency: Annotated[int | None, typer.Option("--concurrency", min=1, help="Copies to run at once.")] = None,
    serve: Annotated[str | None, typer.Option("--serve", help="Requests per second, as 50 or 50,100,200.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Size, memory, cold start and energy too.")] = False,
    tune: Annotated[bool, typer.Option("--tune", help="Search session options; needs --out.")] = False,
    batches: Annotated[str | None, typer.Option("--batches", help="For --tune: batch sizes, as 1,8,32.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="For --tune: folder for the tuned artefact.")] = None,
    price_per_hour: Annotated[float | None, typer.Option("--price-per-hour", help="Of a machine; tells cost.")] = None,
    rate: Annotated[float | None, typer.Option("--rate", help="Samples per second to serve; with a price.")] = None,
    utilisation: Annotated[float, typer.Option("--utilisation", help="Share of time a machine is busy.")] = 1.0,
    copies: Annotated[int, typer.Option("--copies", help="On a machine, taken not to slow each other.")] = 1,
    as_json: Json = False,
) -> None:
    """Measure a deployed file, alone or against another in fair turns."""
    from penjing.errors import PenjingError
    from penjing.measuring import measure, throughput
    from penjing.measuring.cost import cost
    from penjing.runtimes import Artifact

    def priced(samples_per_second: float) -> "Cost | None":
        if price_per_hour is None:
            return None
        together = copies if concurrency is None else 1  # the measured throughput holds all copies
        return cost(samples_per_second, price_per_hour, rate=rate, utilisation=utilisation, copies=together)

    if rate is not None and price_per_hour is None:
        raise PenjingError(f"--rate is {rate} without a price; add --price-per-hour")
    if concurrency is not None and copies != 1:
        raise PenjingError(
            f"--copies {copies} beside --concurrency {concurrency}: measured copies need no assumed ones"
        )
    if tune != (out is not None) or (batches is not None and not tune):
        raise PenjingError("--tune writes the tuned artefact to --out FOLDER, and --batches belongs to it: give both")
    rates = numbers("--serve", serve, float)
    sizes = numbers("--batches", batches, int)
    priced(1.0)  # refuses bad values before anything is measured
    example = read_workload(workload).example
    if batch is not None:
        example = example.with_batch(batch)
    opened = Artifact.open(artifact)
    other = Artifact.open(against) if against is not None else None

    parts: list[Part] = []
    with Bar(quiet=as_json) as bar:
        if tune and out is not None:
            opened, part = _tune(opened, example, sizes, seconds, out, bar)
            example = example.with_batch(part[2]["batch"])  # what follows is measured as it was tuned
            parts.append(part)
        latency = measure(opened, example, against=other, seconds=seconds)
        samples_per_second = latency.samples_per_second
        if concurrency is not None:
            together = throughput(opened, example, concurrency=concurrency, seconds=seconds)
            parts.append(("throughput", str(together), together.to_data()))
            samples_per_second = together.samples_per_second
        if money := priced(samples_per_second):
            parts.append(("cost", str(money), money.to_data()))
        parts += _served(opened, other, example, rates, seconds)
        if full:
            parts += _full(opened, example, seconds)
    if as_json:
        print_json(latency.to_data() | {name: data for name, _, data in parts})
        return
    for text in (str(latency), *(text for _, text, _ in parts)):
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def numbers(option: str, text: str | None, kind: Callable[[str], Any]) -> list[Any]:
    """Read positive numbers with commas between them.

    >>> numbers("--serve", "50,100.5", float)
    [50.0, 100.5]
    """
    from penjing.errors import PenjingError

    try:
        found = [kind(part) for part in text.split(",")] if text is not None else []
    except ValueError:
        found = [0]
    if not all(0 < number < float("inf") for number in found):
        raise PenjingError(f"{option} is {text!r}; give numbers above 0 with commas between them, such as 10,20")
    return found


def _tune(
    artifact: "Artifact", example: "ExampleInputs", sizes: list[int], seconds: float, out: Path, bar: Bar
) -> tuple["Artifact", Part]:
    from penjing.measuring.tune import tune, with_options

    found = tune(artifact, example, batches=sizes, seconds=seconds, progress=bar.update)
    written = with_options(artifact, found.options, out, extra={"tuned": found.to_data()})
    text = "\n".join([*map(str, found.trials), f"tuned: {found}", f"written to {out}"])
    return written, ("tuned", text, {**found.to_data(), "folder": str(out)})


def _served(
    artifact: "Artifact", other: "Artifact | None", example: "ExampleInputs", rates: list[float], seconds: float
) -> list[Part]:
    """Drive the file at each rate, after the one it is compared with."""
    from penjing.measuring import serve

    rows, lines = [], []
    for rate in rates:
        for role, each in (("before", other), ("after", artifact)):
            if each is None:
                continue
            found = serve(each, example, rate=rate, seconds=seconds)
            rows.append({"role": role, **found.to_data()})
            lines.append(f"{role + ': ' if other else ''}{found}")
    return [("served", "\n".join(lines), rows)] if rates else []


def _full(artifact: "Artifact", example: "ExampleInputs", seconds: float) -> Iterator[Part]:
    from penjing.measuring import cold_start, energy, memory, sizes

    weight = sizes(artifact)
    text = f"{weight.raw_bytes:,} bytes, gzip {weight.gzip_bytes:,}, zstd {weight.zstd_bytes:,}"
    yield "sizes", f"files: {text}", weight.to_data()
    taken = memory(artifact, example)
    text = f"{taken.model_bytes:,} bytes at the peak of load and run, process {taken.process_bytes:,}"
    yield "memory", f"memory: {text}", taken.to_data()
    cold = cold_start(artifact, example)
    yield "cold_start", f"cold start: {cold}", cold.to_data()
    used = energy(artifact, example, seconds=seconds)
    yield "energy", f"energy: {used}", used.to_data()
