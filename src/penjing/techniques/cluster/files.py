"""Palettes in a file, and from it."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from penjing.errors import ArtifactError
from penjing.storage import load_metadata, load_tensors, save_tensors
from penjing.techniques.cluster.palette import Palette
from penjing.types import Pooling

_NOTES = "palettes"


def save_palettes(path: Path, palettes: Mapping[str, Palette], *, compact: bool = False) -> None:
    """Write the assignment and the centroids of each weight as two tensors, and the rest as metadata."""
    tensors = {}
    for name, palette in palettes.items():
        tensors[f"{name}.assignment"], tensors[f"{name}.centroids"] = palette.assignment, palette.centroids
    notes = {name: {"zero": each.zero, "gradient": str(each.gradient)} for name, each in palettes.items()}
    save_tensors(path, tensors, {_NOTES: json.dumps(notes, sort_keys=True)}, compact=compact)


def load_palettes(path: Path) -> dict[str, Palette]:
    """Read what `save_palettes` wrote. Raises ArtifactError where the tensors are no palettes."""
    tensors, metadata = load_tensors(path), load_metadata(path)
    try:
        notes = json.loads(metadata[_NOTES])
        palettes = {
            name: Palette(
                tensors[f"{name}.assignment"],
                tensors[f"{name}.centroids"],
                bool(note["zero"]),
                Pooling(note["gradient"]),
            )
            for name, note in notes.items()
        }
    except (KeyError, ValueError, TypeError, AttributeError) as problem:
        raise ArtifactError(f"{path} holds no palettes ({problem!r}); save the model again") from problem
    for name, palette in palettes.items():
        if not _fit(palette.assignment, palette.centroids):
            raise ArtifactError(f"{path}: the assignment and the centroids of {name} do not fit; save the model again")
    return palettes


def _fit(assignment: Tensor, centroids: Tensor) -> bool:
    """Whether indices point at centroids, and each palette serves as many weights as the next."""
    if assignment.dtype != torch.uint8 or centroids.ndim != 2 or not centroids.numel() or not assignment.numel():
        return False
    return assignment.numel() % len(centroids) == 0 and int(assignment.max()) < centroids.shape[1]
