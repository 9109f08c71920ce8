"""`apply`, `export`: make a model by a recipe, make a file for a runtime."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from penjing.cli.progress import Bar
from penjing.cli.shared import Json, RuntimeName, WorkloadFile, console, print_json, print_pairs, read_workload


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("apply")(apply_command)
    app.command("export")(export_command)


def apply_command(
    workload: WorkloadFile,
    recipe: Annotated[Path, typer.Argument(help="Recipe in YAML.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the new model.")],
    compact: Annotated[bool, typer.Option("--compact", help="Pack tensors with zeros or few values.")] = False,
    runtime: Annotated[str | None, typer.Option("--runtime", help="Take widths that pay there, as measured.")] = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    as_json: Json = False,
) -> None:
    """Apply a recipe and save the new model."""
    from penjing.optimizing import apply
    from penjing.recipe import Recipe

    with Bar(quiet=as_json) as bar:
        outcome = apply(read_workload(workload), Recipe.from_yaml(recipe), runtime=runtime, seed=seed, progress=bar)
    folder = outcome.save(out, compact=compact)
    if as_json:
        print_json({"folder": str(folder), "log": [asdict(row) for row in outcome.log]})
        return
    for row in outcome.log:
        mark = "fell back: " if row.fell_back else ""
        proof = f" [{row.proof}]" if row.proof else ""
        console.print(f"{row.step}: {mark}{row.what}{proof}", markup=False, highlight=False)
    console.print(f"saved to {folder}", markup=False, highlight=False)


def export_command(
    workload: WorkloadFile,
    out: Annotated[Path, typer.Option("--out", help="Folder for the deployed file.")],
    model: Annotated[Path | None, typer.Option("--model", help="Folder that `apply` saved; else the original.")] = None,
    runtime: RuntimeName = "onnxruntime",
    threads: Annotated[int, typer.Option("--threads", min=1)] = 1,
    precision: Annotated[str, typer.Option("--precision", help="fp32, bf16, fp16: what the runtime has.")] = "fp32",
    as_json: Json = False,
) -> None:
    """Write the file that will be deployed, checked against the model."""
    import copy

    from penjing.runtimes import export
    from penjing.techniques import restore

    loaded = read_workload(workload)
    network = loaded.model if model is None else restore(copy.deepcopy(loaded.model), model)
    artifact = export(network, loaded.example, out, runtime, options={"threads": threads, "precision": precision})
    facts = {"folder": str(artifact.path), "runtime": artifact.runtime, "size_bytes": artifact.size_bytes}
    if as_json:
        print_json({**facts, "options": dict(artifact.options)})
    else:
        print_pairs(facts)
