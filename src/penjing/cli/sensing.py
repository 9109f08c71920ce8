"""`sensitivity`: what each layer, group of channels or block can lose."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from penjing.cli.progress import Bar
from penjing.cli.shared import Json, WorkloadFile, console, print_json, read_workload
from penjing.types import Measure, Part


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("sensitivity")(sensitivity_command)


def sensitivity_command(
    workload: WorkloadFile,
    kind: Annotated[Part, typer.Option("--kind", help="What goes: single weights, channels or blocks.")] = Part.ELEMENT,
    by: Annotated[Measure, typer.Option("--by", help="What is looked at.")] = Measure.METRIC,
    amount: Annotated[list[float] | None, typer.Option("--amount", help="A share that goes; again for more.")] = None,
    cache: Annotated[Path | None, typer.Option("--cache", help="File that keeps what was measured.")] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Threads, each with a copy of the model.")] = 1,
    csv: Annotated[Path | None, typer.Option("--csv", help="Also write the grid into this file.")] = None,
    svg: Annotated[Path | None, typer.Option("--svg", help="Also draw it into this file.")] = None,
    png: Annotated[Path | None, typer.Option("--png", help="Also draw it into this file.")] = None,
    as_json: Json = False,
) -> None:
    """Measure the model with a share of one part gone, for each part and share."""
    from penjing.planning import sensitivity
    from penjing.planning.sensitivity import AMOUNTS
    from penjing.reporting.raster import draw_png
    from penjing.reporting.sensitivity import sensitivity_picture
    from penjing.reporting.svg import dump
    from penjing.storage import atomic_write

    with Bar(quiet=as_json) as bar:
        loaded, shares = read_workload(workload), amount or AMOUNTS
        found = sensitivity(loaded, kind, shares, by=by, cache=cache, workers=workers, progress=bar)
    picture = sensitivity_picture(found)
    if csv is not None:
        found.to_csv(csv)
    if svg is not None:
        atomic_write(svg, dump(picture))
    if png is not None:
        atomic_write(png, draw_png(picture))
    if as_json:
        print_json(asdict(found))
    else:
        console.print(found.table(), markup=False, highlight=False, soft_wrap=True)
