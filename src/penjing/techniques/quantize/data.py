"""The inputs that a quantisation is fitted to, and those that it is judged on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from penjing.errors import RecipeError, WorkloadError
from penjing.structure import Captured
from penjing.techniques.quantize.calibrate import Inputs
from penjing.techniques.state import Context
from penjing.workload import Batch, tree

SAMPLES = 512
"""Samples that ranges are observed on, at most."""

WALKED, WALKED_IF_SMALL = 64, 256
"""Samples that layers are mended on: their activations are all held at once."""

SMALL = 2**20
"""Values of inputs, all together, up to which more of them are held."""

STEP = 16
JUDGED, GLANCED = 128, 32
HELD_OUT = 0.25
ENOUGH = 32
"""Below so many samples the ranges are those of single samples, and a warning says so."""


@dataclass(frozen=True)
class Calibration:
    """Flat inputs of the graph, in batches.

    seen: what ranges are fitted to. walked: some of it, which layers are mended on. few: some, which gradients are
    looked at on, value by value. held_out: what choices are judged on, and glanced some of it, for
    a first choice among many. where, where_glanced: what these are, in words. samples: how many are seen. warning: what
    is wrong with the data, or nothing.
    """

    seen: list[Inputs]
    walked: list[Inputs]
    few: list[Inputs]
    held_out: list[Inputs]
    glanced: list[Inputs]
    where: str
    where_glanced: str
    samples: int
    warning: str = ""


def calibration(context: Context, captured: Captured, *, needed: bool) -> Calibration | None:
    """Read calibration data and set apart what choices are judged on.

    None where there are no data, and none are needed. Raises RecipeError where they are needed, and WorkloadError where
    they are empty, or all samples are the same.
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
    apart = workload.search_batches()
    held_out = _spread(_first(apart, SAMPLES), JUDGED) if apart is not None else []
    where = "samples of the search split"
    seen = batches
    if not held_out:
        seen, held_out = _split(batches)
        held_out = _spread(held_out, JUDGED)
        where = "held-out samples"
    samples, glanced = sum(batch.size for batch in seen), _spread(held_out, GLANCED)
    return Calibration(
        _flat(captured, seen, context.device),
        _flat(captured, _smaller(_walked(seen)), context.device),
        _flat(captured, _spread(seen, STEP), context.device),
        _flat(captured, held_out, context.device),
        _flat(captured, glanced, context.device),
        f"{sum(batch.size for batch in held_out)} {where}",
        f"{sum(batch.size for batch in glanced)} {where}",
        samples,
        ""
        if samples >= ENOUGH
        else f"calibration saw {samples} samples alone, and ranges may hold for little else; {ENOUGH} would do",
    )


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


def _walked(batches: Sequence[Batch]) -> list[Batch]:
    """Samples to mend layers on, from all over the data; more of them where they are small."""
    found = _spread(batches, WALKED_IF_SMALL)
    values = sum(x.numel() for batch in found for x in tree.tensors((batch.args, batch.kwargs)))
    return found if values <= SMALL else _spread(batches, WALKED)


def _spread(batches: Sequence[Batch], most: int) -> list[Batch]:
    """So many samples at equal distances, for data often come sorted by where they are from."""
    total = sum(batch.size for batch in batches)
    wanted = {i * total // most for i in range(most)} if total > most else set(range(total))
    found: list[Batch] = []
    before = 0
    for batch in batches:
        inside = [i for i in range(batch.size) if before + i in wanted]
        before += batch.size
        if inside:
            found.append(batch if len(inside) == batch.size else batch.take(inside))
    return found


def _smaller(batches: Iterable[Batch]) -> list[Batch]:
    """The same samples in batches of at most STEP, so that gradients of few are held at once."""
    return [
        batch.take(range(start, min(start + STEP, batch.size)))
        for batch in batches
        for start in range(0, batch.size, STEP)
    ]


def _refuse_constant(batches: Sequence[Batch]) -> None:
    """Raise WorkloadError where no input of floats ever changes: the ranges would be those of nothing."""
    inputs = (x for batch in batches for x in tree.tensors((batch.args, batch.kwargs)))
    floats = [x for x in inputs if x.is_floating_point() and x.numel()]
    if floats and all(bool((x == x.reshape(-1)[0]).all()) for x in floats):
        raise WorkloadError(
            f"Quantize: every value of every calibration batch is {float(floats[0].reshape(-1)[0]):g}; give samples of "
            "the data that the model will see"
        )


def _split(batches: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Set the last quarter aside: of the batches, or of the samples of a single batch."""
    if len(batches) == 1 and batches[0].size > 1:
        size = batches[0].size
        first = max(1, round(size * (1 - HELD_OUT)))
        first = min(first, size - 1)
        return [batches[0].take(range(first))], [batches[0].take(range(first, size))]
    first = max(1, min(len(batches) - 1, round(len(batches) * (1 - HELD_OUT))))
    return list(batches[:first]), list(batches[first:] or batches)


def _flat(captured: Captured, batches: Sequence[Batch], device: torch.device | None) -> list[Inputs]:
    moved = [batch.to(device) if device is not None else batch for batch in batches]
    return [captured.flatten(batch.args, batch.kwargs) for batch in moved]
