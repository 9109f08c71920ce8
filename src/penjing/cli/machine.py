"""`runtimes`, `calibrate-machine`: what can run a model here, and what each technique is worth in it."""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penjing.cli.progress import Bar
from penjing.cli.shared import Json, console, print_json

if TYPE_CHECKING:
    from penjing.measuring.capability import Capability


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("runtimes")(runtimes_command)
    app.command("calibrate-machine")(calibrate_command)


def runtimes_command(as_json: Json = False) -> None:
    """List the runtimes: what is installed, what each writes and can accelerate, and how to install the rest."""
    from penjing.measuring.capability import capabilities

    rows = [_facts(name) for name in _names()]
    measured = capabilities()
    if as_json:
        print_json([row | {"measured": [c.to_data() for c in measured if c.runtime == row["name"]]} for row in rows])
        return
    for row in rows:
        state = row["version"] if row["installed"] else f"not installed; {row['remedy']}"
        _print(f"{row['name']:<12} {state}", f"{'':<12} {row['summary']}", f"{'':<12} options: {row['options']}")
    if measured:
        _print("", "Measured on this machine (times faster than the dense float32 network):", *_table(measured))
    else:
        _print("", "What each technique is worth here is not measured yet: penjing calibrate-machine")


def calibrate_command(
    runtime: Annotated[list[str] | None, typer.Option("--runtime", help="Only this one; may be repeated.")] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=1.0, help="To spend at most.")] = 270.0,
    as_json: Json = False,
) -> None:
    """Measure what number formats, widths, sparsity and low rank are worth in each runtime on this machine."""
    from penjing.measuring.capability import calibrate
    from penjing.runtimes import find_runtime

    for name in runtime or ():
        find_runtime(name)
    with Bar(quiet=as_json) as bar:
        rows = calibrate(runtime, budget_s=seconds, progress=bar)
    if as_json:
        print_json([row.to_data() for row in rows])
    else:
        _print(*_table(rows), *(str(row) for row in rows if row.factor is None))


def _names() -> list[str]:
    from penjing.runtimes import RUNTIMES

    return sorted(RUNTIMES)


def _facts(name: str) -> dict[str, Any]:
    from penjing.runtimes import RUNTIMES, missing

    runtime = RUNTIMES[name]
    absent = missing(runtime)
    try:
        installed = version(runtime.packages[0])
    except PackageNotFoundError:
        installed = None
    return {
        "name": name,
        "installed": not absent,
        "version": installed,
        "summary": runtime.summary,
        "options": ", ".join(
            f"{key} ({'|'.join(map(str, option.values))})" if option.values else key
            for key, option in runtime.known.items()
        ),
        "remedy": f"pip install '{runtime.extra}' brings {', '.join(absent)}" if absent else None,
    }


def _table(rows: "tuple[Capability, ...]") -> list[str]:
    """Patterns down, runtimes across; "-" where a runtime has no such format or was not measured."""
    from penjing.measuring.capability import factors

    runtimes = sorted({row.runtime for row in rows})
    patterns = list(dict.fromkeys(row.pattern for row in rows))
    measured = factors(rows)
    ideal = {row.pattern: row.ideal for row in rows}
    lines = [f"{'':<20}{'by count':>10}" + "".join(f"{name:>13}" for name in runtimes)]
    for pattern in patterns:
        found = [measured.get((name, pattern)) for name in runtimes]
        values = [f"{factor:.2f}x" if factor is not None else "-" for factor in found]
        lines.append(f"{pattern:<20}{ideal[pattern]:>9.2f}x" + "".join(f"{value:>13}" for value in values))
    return lines


def _print(*lines: str) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
