"""`profile`, `couple`: look, change nothing."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penjing.cli.shared import Json, WorkloadFile, console, print_json, read_workload

if TYPE_CHECKING:
    from penjing.structure import Coupling


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("profile")(profile_command)
    app.command("couple")(couple_command)


def profile_command(workload: WorkloadFile, as_json: Json = False) -> None:
    """Count parameters, MACs, bytes and peak activation memory, layer by layer."""
    from penjing.profiling import profile

    loaded = read_workload(workload)
    found = profile(loaded.model, loaded.example)
    if as_json:
        print_json(found.to_data())
    else:
        console.print(found.table(), markup=False, highlight=False, soft_wrap=True)


Picture = Annotated[Path | None, typer.Option("--picture", help="Also draw the groups into this SVG file.")]


def couple_command(workload: WorkloadFile, picture: Picture = None, as_json: Json = False) -> None:
    """List the groups of channels that can only be cut together, and what is kept and why.

    A model that is no graph as a whole, such as a detector, is listed part by part.
    """
    from penjing.structure import capture_parts, couple

    loaded = read_workload(workload)
    couplings = {part.path: couple(part.captured) for part in capture_parts(loaded.model, loaded.example)}
    if as_json:
        data = {path: coupling_data(coupling) for path, coupling in couplings.items()}
        print_json(data.get("", {"parts": data}))
    for path, coupling in couplings.items():
        if not as_json:
            _print(*([f"part {path}"] if path else []), coupling.table(), coupling.kept_table())
        if picture is not None:
            _draw(coupling, picture.with_stem(f"{picture.stem}-{path}") if path else picture, quiet=as_json)


def _draw(coupling: "Coupling", file: Path, quiet: bool) -> None:
    from penjing.reporting.coupling import coupling_picture
    from penjing.storage import atomic_write

    atomic_write(file, coupling_picture(coupling))
    if not quiet:
        _print(f"drawn into {file}")


def _print(*texts: str) -> None:
    for text in texts:
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def coupling_data(coupling: "Coupling") -> dict[str, Any]:
    """Give the groups and what is frozen as plain values; a member is (parameter, dimension, indices a unit owns)."""
    groups = [
        {
            "name": group.name,
            "size": group.size,
            "exact": group.exact,
            "prunable": group.prunable,
            "reason": group.reason,
            "members": [
                {"parameter": member.parameter, "dim": member.dim, "index": member.index.tolist()}
                for member in group.members
            ],
        }
        for group in coupling.groups
    ]
    return {"groups": groups, "frozen": [asdict(part) for part in coupling.frozen], "unknown": dict(coupling.unknown)}
