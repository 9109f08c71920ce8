"""The Lossless step: units that contribute nothing go, until there are none left."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from penjing.recipe import Lossless
from penjing.structure import Coupling, Folding, capture, couple, fold
from penjing.structure.dead import dead_units, inactive_units
from penjing.techniques.prune.attempt import Folds, largest_proven, take_over
from penjing.techniques.prune.calibration import affordable
from penjing.techniques.prune.select import Units, Widths
from penjing.techniques.prune.widths import widths_of
from penjing.techniques.sparsify.torch_masks import take_torch_masks
from penjing.techniques.state import Context, State
from penjing.workload import Workload, device_of


def run(state: State, step: Lossless, context: Context) -> State:
    """Apply the step. Masks of earlier steps and of torch.nn.utils.prune go along with the weights."""
    before = state.surgery
    state = replace(state, masks={**state.masks, **take_torch_masks(state.model)})
    state = _remove_dead(state, step, context)
    if step.inactive and context.workload is not None and context.workload.brings("calibration"):
        state = _remove_inactive(state, step, context, context.workload)
    if state.surgery is before:
        return state.log(step.key, "nothing removed: every unit that could go contributes")
    return state


def _remove_dead(state: State, step: Lossless, context: Context) -> State:
    """Remove what does not change the model, in rounds: what dies with it goes in the next."""
    spare = frozenset(state.masks)
    folds = partial(fold, intact=True, spare=spare, seed=context.seed)
    while True:
        coupling = couple(capture(state.model, state.example))
        dead = _allowed(coupling, dead_units(coupling, spare=spare, seed=context.seed), step)
        smaller = _cut(state, step, coupling, dead, folds, "removed {} that contributed nothing", context)
        if smaller.surgery is state.surgery:
            return smaller
        state = smaller


def _remove_inactive(state: State, step: Lossless, context: Context, workload: Workload) -> State:
    """Remove what is zero on all calibration data, and what that leaves dead."""
    coupling = couple(capture(state.model, state.example))
    captured, device = coupling.captured, device_of(state.model)
    samples = 0

    def batches() -> Iterator[Sequence[Any]]:
        nonlocal samples
        for batch in affordable(workload.calibration_batches(), captured, device):
            samples += batch.size
            yield captured.flatten(batch.args, batch.kwargs)

    inactive = _allowed(coupling, inactive_units(coupling, batches()), step)
    what = f"removed {{}} that were zero on {samples} calibration samples: on other data the model can differ"
    smaller = _cut(state, step, coupling, inactive, _none, what, context)
    return smaller if smaller.surgery is state.surgery else _remove_dead(smaller, step, context)


def _none(coupling: Coupling, removed: Mapping[str, Units]) -> Folding:
    return Folding()


def _allowed(coupling: Coupling, units: Mapping[str, Units], step: Lossless) -> dict[str, Units]:
    """As many of the units as the widths let go."""
    groups = [coupling[name] for name in units]
    widths = widths_of(coupling, groups, Widths(step.round_to or 1, step.min_width))
    allowed = {}
    for group in groups:
        multiple, least = widths[group.name].multiple, widths[group.name].least
        kept = max(group.size - len(units[group.name]), least)
        allowed[group.name] = units[group.name][: max(0, group.size - math.ceil(kept / multiple) * multiple)]
    return {name: each for name, each in allowed.items() if len(each)}


def _cut(
    state: State,
    step: Lossless,
    coupling: Coupling,
    units: Mapping[str, Units],
    folds: Folds,
    what: str,
    context: Context,
) -> State:
    """Cut and prove; give the same state, but for its log, where nothing passes."""
    if not units:
        return state
    done, failed = largest_proven(state, coupling, units, context.prefer, folds=folds)
    for name, why in failed.items():
        state = state.log(step.key, f"group {name} was left whole: its cut could not be proven ({why})", fell_back=True)
    if done is None:
        return state
    gone = ", ".join(f"{len(each)} of {coupling[name].size} units of {name}" for name, each in done.removed.items())
    state = state.log(step.key, what.format(gone), proof=done.proof.describe())
    if done.refused:
        why = f"its own class, cut in place, did not pass the proof ({done.refused})"
        state = state.log(step.key, f"the model is now a rewritten graph: {why}", fell_back=True)
    return take_over(state, done)
