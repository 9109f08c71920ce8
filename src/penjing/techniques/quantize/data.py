"""The inputs that a quantisation is fitted to, and those that it is judged on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from penjing.errors import RecipeError, WorkloadError
from penjing.structure import Captured
from penjing.structure.rules import each_shape
from penjing.techniques.quantize.calibrate import Inputs
from penjing.techniques.state import Context
from penjing.workload import Batch, tree

SAMPLES = 512
"""Samples that ranges are observed on, at most."""

WALKED, WALKED_IF_SMALL = 64, 256
"""Samples that layers are mended on."""

SMALL = 2**20
"""Values of inputs, all together, up to which more of them are held."""

PIECE = 2**23
"""Values that all operators give for the samples that run together, at most: what a gradient holds at once."""

LOOKED_AT = 16
JUDGED, GLANCED = 128, 32
HELD_OUT = 0.25
ENOUGH = 32
"""Below so many samples the ranges are those of single samples, and a warning says so."""


class Pieces(Sequence[Inputs]):
    """Flat inputs of the graph for a few samples at a time; they are taken out of their batch when they are read."""

    def __init__(self, captured: Captured, device: torch.device | None, parts: "Sequence[Part]") -> None:
        self._captured, self._device, self._parts = captured, device, parts

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, index: Any) -> Any:
        batch, inside = self._parts[index]
        some = batch if len(inside) == batch.size else batch.take(inside)
        some = some if self._device is None else some.to(self._device)
        return self._captured.flatten(some.args, some.kwargs)

    @property
    def samples(self) -> int:
        return sum(len(inside) for _, inside in self._parts)


@dataclass(frozen=True)
class Calibration:
    """Flat inputs of the graph, in pieces.

    seen: what ranges are fitted to. walked: some of it, which layers are mended on. few: some, which gradients are
    looked at on, value by value. held_out: what choices are judged on, and glanced some of it, for
    a first choice among many. where, where_glanced: what these are, in words. warnings: what is wrong with the data.
    """

    seen: Pieces
    walked: Pieces
    few: Pieces
    held_out: Pieces
    glanced: Pieces
    where: str
    where_glanced: str
    warnings: tuple[str, ...] = ()


def calibration(context: Context, captured: Captured, *, needed: bool) -> Calibration | None:
    """Read calibration data and set apart what choices are judged on.

    None where there are no data, and none are needed. Raises RecipeError where they are needed, and WorkloadError where
    they are empty, all samples are the same, or no batch has the size that the graph is fixed at.
    """
    workload = context.workload
    if workload is None or not workload.brings("calibration"):
        if needed:
            raise RecipeError(
                "Quantize needs calibration data; pass a Workload with calibration= (no labels needed) or train="
            )
        return None
    batches = _first(workload.calibration_batches(), SAMPLES)
    if not any(batch.size for batch in batches):
        raise WorkloadError("Quantize: the calibration data are empty; give at least one batch")
    _refuse_constant(batches)
    fixed = _fixed_size(captured)
    seen: Sequence[Part] = _units(batches, fixed or 1)
    if not seen:
        raise WorkloadError(
            f"Quantize: the graph takes batches of {fixed} samples alone, and no calibration batch has as many; "
            "give one that has, or leave dimension 0 free in dynamic_shapes="
        )
    apart = workload.search_batches()
    held_out: Sequence[Part] = _units(_first(apart, SAMPLES), fixed or 1) if apart is not None else []
    where = "samples of the search split"
    if not held_out:
        seen, held_out = _split(seen)
        where = "held-out samples"
    held_out = _spread(held_out, JUDGED)
    together = fixed or max(1, PIECE // _values_of_a_sample(captured))

    def pieces(units: Sequence[Part]) -> Pieces:
        return Pieces(captured, context.device, _joined(units, together))

    judged, glanced = pieces(held_out), pieces(_spread(held_out, GLANCED))
    return Calibration(
        pieces(seen),
        pieces(_walked(seen)),
        pieces(_spread(seen, LOOKED_AT)),
        judged,
        glanced,
        f"{judged.samples} {where}",
        f"{glanced.samples} {where}",
        tuple(_warnings(batches, pieces(seen).samples, fixed)),
    )


Part = tuple[Batch, Sequence[int]]
"""Samples of a batch, by their places in it."""


def _warnings(batches: Sequence[Batch], samples: int, fixed: int | None) -> Iterable[str]:
    if samples < ENOUGH:
        yield f"calibration saw {samples} samples alone, and ranges may hold for little else; {ENOUGH} would do"
    left_out = sum(batch.size % fixed for batch in batches) if fixed else 0
    if left_out:
        yield f"{left_out} samples of the calibration data were left out: the graph takes batches of {fixed} alone"


def _fixed_size(captured: Captured) -> int | None:
    """The number of samples that a graph is fixed at; None where it is free."""
    inputs = [node.meta.get("val") for node in captured.module.graph.find_nodes(op="placeholder")]
    free = any(isinstance(x, Tensor) and x.ndim and not isinstance(x.shape[0], int) for x in inputs)
    return None if free else captured.example.batch_size


def _values_of_a_sample(captured: Captured) -> int:
    """How many values the operators of a graph give for a sample of the example, all together."""
    names = {node.name for node in captured.module.graph.nodes if node.op == "call_function"}
    sizes: list[int] = [prod(shape) for name in names for shape in each_shape(captured.shapes.get(name)) if shape]
    return max(1, sum(sizes) // captured.example.batch_size)


def _first(batches: Iterable[Batch], most: int) -> list[Batch]:
    """The first batches, of so many samples together."""
    found: list[Batch] = []
    room = most
    for batch in batches:
        found.append(batch.take(range(room)) if batch.size > room else batch)
        room -= found[-1].size
        if room <= 0:
            break
    return found


def _units(batches: Sequence[Batch], size: int) -> list[Part]:
    """What is chosen or left as a whole: so many samples of a batch, one after the other."""
    return [(batch, range(start, start + size)) for batch in batches for start in range(0, batch.size - size + 1, size)]


def _walked(units: Sequence[Part]) -> Sequence[Part]:
    """Samples to mend layers on, from all over the data; more of them where they are small."""
    found = _spread(units, WALKED_IF_SMALL)
    values = sum(
        x.numel() * len(inside) // batch.size
        for batch, inside in found
        for x in tree.tensors((batch.args, batch.kwargs))
    )
    return found if values <= SMALL else _spread(units, WALKED)


def _spread(units: Sequence[Part], most: int) -> Sequence[Part]:
    """Units of so many samples, at equal distances, for data often come sorted by where they are from."""
    wanted = max(1, most // len(units[0][1]))
    return [units[i * len(units) // wanted] for i in range(wanted)] if len(units) > wanted else units


def _joined(units: Iterable[Part], most: int) -> list[Part]:
    """The same samples, of which those of one batch that follow each other are together, up to so many."""
    parts: list[Part] = []
    for batch, inside in units:
        if parts and parts[-1][0] is batch and len(parts[-1][1]) + len(inside) <= most:
            parts[-1] = batch, [*parts[-1][1], *inside]
        else:
            parts.append((batch, inside))
    return parts


def _refuse_constant(batches: Sequence[Batch]) -> None:
    """Raise WorkloadError where no input of floats ever changes: the ranges would be those of nothing."""
    inputs = (x for batch in batches for x in tree.tensors((batch.args, batch.kwargs)))
    floats = [x for x in inputs if x.is_floating_point() and x.numel()]
    if floats and all(bool((x == x.reshape(-1)[0]).all()) for x in floats):
        raise WorkloadError(
            f"Quantize: every value of every calibration batch is {float(floats[0].reshape(-1)[0]):g}; give samples of "
            "the data that the model will see"
        )


def _split(units: Sequence[Part]) -> tuple[Sequence[Part], Sequence[Part]]:
    """Set the last quarter aside; a single unit is on both sides."""
    first = min(max(1, round(len(units) * (1 - HELD_OUT))), max(1, len(units) - 1))
    return units[:first], units[first:] or units
