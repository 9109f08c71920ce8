"""`init`: write a workload file that runs, to be changed."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from penjing.cli.shared import Json, console, print_json
from penjing.errors import WorkloadError


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("init")(init_command)


def init_command(
    path: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("workload.py"), as_json: Json = False
) -> None:
    """Write a workload file that runs as it is; put your model and data in."""
    if path.exists():
        raise WorkloadError(f"{path} exists already and is left as it is; name another file")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(files("penjing.cli").joinpath("workload_template.py").read_text("utf-8"), encoding="utf-8")
    if as_json:
        print_json({"written": str(path)})
        return
    console.print(f"wrote {path}; now try", markup=False, highlight=False)
    console.print(f"  penjing profile {path}\n  penjing optimize {path} --max-drop 0.02 --budget 90s", markup=False)
