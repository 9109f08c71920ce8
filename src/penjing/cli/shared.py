"""What all commands share: consoles, exit codes, reading a workload file, printing data."""

import json
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from penjing.errors import PenjingError, WorkloadError
from penjing.types import Decision

if TYPE_CHECKING:
    from penjing.workload import Workload

console = Console()
errors_console = Console(stderr=True)


class ExitCode(IntEnum):
    """What the shell is told."""

    DONE = 0
    FAIL = 1
    USAGE = 2
    UNDECIDED = 3
    ERROR = 4
    INTERRUPTED = 130


EXIT = {Decision.PASS: ExitCode.DONE, Decision.FAIL: ExitCode.FAIL, Decision.UNDECIDED: ExitCode.UNDECIDED}

WorkloadFile = Annotated[Path, typer.Argument(metavar="WORKLOAD", help="Python file with `def workload()`.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value instead of text.")]
RuntimeName = Annotated[str, typer.Option("--runtime", help="Where the model will run.")]


def read_workload(path: Path) -> "Workload":
    """Run a workload file and give what its `workload()` returns."""
    import importlib.util

    from penjing.workload import Workload

    if not path.is_file():
        raise WorkloadError(f"{path} is no file; `penjing init {path}` writes one that runs")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise WorkloadError(f"{path} is no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    with _explained(path):
        spec.loader.exec_module(module)
    make = getattr(module, "workload", None)
    if not callable(make):
        raise WorkloadError(f"{path} has no function `workload`; add `def workload() -> penjing.Workload`")
    with _explained(path):
        made = make()
    if not isinstance(made, Workload):
        raise WorkloadError(f"workload() of {path} returned {type(made).__name__}; return a penjing.Workload")
    return made


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Say where in the file an error of its own came up; those of Penjing say enough."""
    try:
        yield
    except PenjingError:
        raise
    except Exception as problem:
        own = str(path.absolute())
        lines = [frame.lineno for frame in traceback.extract_tb(problem.__traceback__) if frame.filename == own]
        line = problem.lineno if isinstance(problem, SyntaxError) else lines[-1] if lines else None
        raise WorkloadError(f"{path}, line {line}: {type(problem).__name__}: {problem}; mend the file") from problem


def print_json(data: Any) -> None:
    """Print one JSON value on standard output, with nothing around it."""
    typer.echo(json.dumps(data, indent=2, default=str, allow_nan=False))


def print_pairs(pairs: Mapping[str, Any]) -> None:
    """Print names and values, aligned."""
    width = max(map(len, pairs), default=0)
    for name, value in pairs.items():
        console.print(f"{name:<{width}}  {value}", markup=False, highlight=False)
