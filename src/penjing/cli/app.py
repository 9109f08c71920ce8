"""The program: collects the commands and turns what they raise into exit codes."""

import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from penjing._version import __version__
from penjing.cli import bench, demo, deploying, inspect, judging, machine, making, parity, searching, sensing, starting
from penjing.cli.shared import ExitCode, errors_console
from penjing.errors import PenjingError

app = typer.Typer(
    name="penjing",
    help="Make a trained model smaller and faster on the machine that will run it, and certify what it lost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Hold the options that belong to no command."""


for group in (demo, starting, inspect, sensing, machine, making, bench, judging, parity, deploying, searching):
    group.register(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit code."""
    logging.basicConfig(level=os.environ.get("PENJING_LOG", "WARNING"), format="%(message)s", stream=sys.stderr)
    try:
        app(args=list(arguments) if arguments is not None else None)
    except SystemExit as end:
        if end.code == ExitCode.INTERRUPTED:
            errors_console.print("interrupted; what was finished is kept, the same command goes on from there")
        return int(end.code or 0)
    except PenjingError as problem:
        errors_console.print(f"[bold red]{type(problem).__name__}[/]: ", end="", highlight=False)
        errors_console.print(str(problem), markup=False, highlight=False, soft_wrap=True)
        return ExitCode.ERROR
    return ExitCode.DONE
