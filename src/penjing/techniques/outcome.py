"""What `apply` gives back, how it is saved, and how it is restored without a pickle."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from penjing.errors import ArtifactError
from penjing.recipe import Recipe
from penjing.types import LogRow, Status

if TYPE_CHECKING:
    from penjing.structure import Surgery
    from penjing.techniques.cluster import Palette

WEIGHTS, SURGERY, GRAPH, MASKS = "weights.safetensors", "surgery.json", "graph.json", "masks.safetensors"
PALETTES = "palettes.safetensors"


@dataclass(frozen=True)
class Outcome:
    """The model after a recipe, and a log with one row for each thing that happened.

    surgery: what was cut out of the original, None if nothing was. masks: parameter name -> boolean mask of the weights
    that live. graph: whether the model is a rewritten graph instead of the user's own class. palettes: parameter name
    -> the palette that its weights lie on.
    """

    model: nn.Module
    log: tuple[LogRow, ...]
    recipe: Recipe
    surgery: "Surgery | None"
    masks: Mapping[str, Tensor]
    graph: bool = False
    palettes: "Mapping[str, Palette]" = field(default_factory=dict)

    @property
    def fallbacks(self) -> tuple[LogRow, ...]:
        """Rows of the log that say where a step did less than it was asked."""
        return tuple(row for row in self.log if row.fell_back)

    @property
    def surgery_proof(self) -> dict[str, list[str]] | None:
        """What proves each cut, as a manifest holds it; None where nothing was cut."""
        proofs = [row.proof for row in self.log if row.proof is not None]
        return {"cuts": proofs} if proofs else None

    def save(self, folder: str | Path, *, compact: bool = False) -> Path:
        """Write manifest, weights and what was cut into a folder, atomically.

        compact packs tensors with zeros or few values, and leaves weights on palettes to these.
        `restore(fresh_model, folder)` rebuilds it.
        """
        from penjing.storage import Manifest, atomic_folder, atomic_write, save_tensors, write_manifest
        from penjing.structure import save_graph
        from penjing.techniques.cluster import save_palettes

        tensors = self.model.state_dict()
        palettes = {name: each for name, each in self.palettes.items() if each.holds(tensors[name])}
        if compact:
            tensors = {name: tensor for name, tensor in tensors.items() if name not in palettes}
        folder = Path(folder)
        with atomic_folder(folder) as temporary:
            save_tensors(temporary / WEIGHTS, tensors, compact=compact)
            if palettes:
                save_palettes(temporary / PALETTES, palettes, compact=compact)
            if self.masks:
                save_tensors(temporary / MASKS, dict(self.masks), compact=compact)
            if self.surgery is not None:
                atomic_write(temporary / SURGERY, self.surgery.to_json())
            if self.graph:
                save_graph(self.model, temporary / GRAPH)
            manifest = Manifest(
                kind="model",
                status=Status.UNJUDGED,
                recipe=self.recipe.to_data(),
                surgery_proof=self.surgery_proof,
                extra={"graph": self.graph, "log": [asdict(row) for row in self.log]},
            )
            write_manifest(temporary, manifest)
        return folder


def restore(model: nn.Module | None, folder: str | Path) -> nn.Module:
    """Rebuild a saved model: cut a fresh instance of the original class the same way and load the weights.

    model: a fresh instance, which is changed and returned; None rebuilds the saved graph, where the folder holds one.
    Raises ArtifactError for a folder that is changed, foreign, or does not fit the instance.
    """
    return read_outcome(model, folder).model


def read_outcome(model: nn.Module | None, folder: str | Path) -> Outcome:
    """Read back all that `Outcome.save` wrote."""
    from penjing.storage import load_tensors, read_manifest
    from penjing.structure import Surgery, restore_graph
    from penjing.structure import restore as restore_in_place
    from penjing.techniques.cluster import load_palettes

    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest.kind != "model":
        raise ArtifactError(
            f"{folder} holds {manifest.kind!r}, not a saved model; use penjing.load for what export wrote"
        )
    palettes = load_palettes(folder / PALETTES) if (folder / PALETTES).exists() else {}
    tensors = load_tensors(folder / WEIGHTS) | {name: palette.values() for name, palette in palettes.items()}
    surgery = Surgery.from_json((folder / SURGERY).read_text("utf-8")) if (folder / SURGERY).exists() else None
    graph = bool(manifest.extra.get("graph"))
    if graph:
        rebuilt: nn.Module = restore_graph(folder / GRAPH, tensors)
    elif model is None:
        raise ArtifactError(f"{folder} was saved from a model of its own class; pass a fresh instance of that class")
    else:
        try:
            rebuilt = restore_in_place(model, surgery or Surgery({}), tensors)
        except ArtifactError as problem:
            raise ArtifactError(f"{folder} does not fit {type(model).__name__}: {problem}") from problem
    return Outcome(
        model=rebuilt,
        log=tuple(LogRow(**row) for row in manifest.extra.get("log", ())),
        recipe=Recipe.from_data(manifest.recipe or []),
        surgery=surgery,
        masks=load_tensors(folder / MASKS) if (folder / MASKS).exists() else {},
        graph=graph,
        palettes=palettes,
    )
