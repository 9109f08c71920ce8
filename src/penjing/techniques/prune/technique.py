"""The PruneChannels step: capture, score, select, cut, prove, compensate."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from penjing.errors import CaptureError
from penjing.recipe import PruneChannels
from penjing.structure import Captured, Coupling, capture, couple
from penjing.techniques.prune.attempt import consuming, largest_proven, take_over
from penjing.techniques.prune.bisect import Attempt
from penjing.techniques.prune.budget import check_patterns
from penjing.techniques.prune.calibration import affordable
from penjing.techniques.prune.choice import DEFAULT_MULTIPLE, Choice, choose, choose_measured, refits
from penjing.techniques.prune.compensate import install, refit
from penjing.techniques.prune.parts import run_in_parts
from penjing.techniques.prune.select import Units
from penjing.techniques.state import Context, State
from penjing.types import Budget
from penjing.workload import device_of


def run(state: State, step: PruneChannels, context: Context) -> State:
    """Apply the step to the whole model, or to its parts where it cannot be captured."""
    if not any(ratio for _, ratio in step.ratios):
        return state.log(step.key, "nothing asked for: ratio is 0")
    try:
        captured = capture(state.model, state.example)
    except CaptureError as problem:
        return run_in_parts(state, step, context, _cut, problem)
    return _cut(state, step, context, captured)


def _cut(state: State, step: PruneChannels, context: Context, captured: Captured) -> State:
    """Cut a captured model; with iterations=n in n equal shares, scored anew before each."""
    remaining = {pattern: 1.0 for pattern, _ in step.ratios}
    for i in range(step.iterations):
        coupling = couple(captured if i == 0 else capture(state.model, state.example), eager_safe=step.eager_safe)
        if i == 0:
            check_patterns(step, coupling)
        keep = {
            pattern: min(1.0, (1 - ratio) ** ((i + 1) / step.iterations) / remaining[pattern])
            for pattern, ratio in step.ratios
        }
        state, kept = _cut_once(state, step, coupling, keep, context)
        remaining |= {pattern: remaining[pattern] * share for pattern, share in kept.items()}
        if context.progress is not None:
            context.progress.update(i + 1, step.iterations, step.key)
    return state


def _cut_once(
    state: State, step: PruneChannels, coupling: Coupling, keep: Mapping[str, float], context: Context
) -> tuple[State, Mapping[str, float]]:
    """Cut once; give the share that remains of what each pattern's groups cost."""
    if context.target is not None and (step.round_to == "auto" or Budget(step.of) is Budget.LATENCY):
        choice = choose_measured(state, step, coupling, keep, context, context.target)
    else:
        multiple = DEFAULT_MULTIPLE if step.round_to == "auto" else int(step.round_to or 1)
        choice = choose(state, step, coupling, keep, context, multiple)
    if not choice.removed:
        return replace(state, rows=choice.rows), {}

    choices = [choice]

    def gentler() -> tuple[Coupling, Mapping[str, Units]] | None:
        safe = choose(state, step, couple(coupling.captured, eager_safe=True), keep, context, choice.rule)
        if step.eager_safe or not safe.removed or not safe.as_small(choice):
            return None
        choices.append(safe)
        return safe.coupling, safe.removed

    if context.consume and not step.eager_safe and not refits(step, context):
        done, failed = consuming(state, coupling, choice.removed, context.prefer)
        return _carry_out(replace(state, rows=choice.rows), step, choice, done, failed, context)
    done, failed = largest_proven(
        state, coupling, choice.removed, context.prefer, eager_safe=step.eager_safe, gentler=gentler
    )
    if step.eager_safe and failed and done is not None and not choice.met(done.removed):
        rest = choose(state, step, coupling, keep, context, choice.rule, without=failed)
        second, refused = largest_proven(state, coupling, rest.removed, context.prefer, eager_safe=True)
        done, failed = (second, failed | refused) if second is not None and not refused else (done, failed)
    made = next((each for each in choices if done is not None and each.coupling is done.cut.coupling), choice)
    return _carry_out(replace(state, rows=made.rows), step, made, done, failed, context)


def _carry_out(
    state: State,
    step: PruneChannels,
    choice: Choice,
    done: Attempt | None,
    failed: Mapping[str, str],
    context: Context,
) -> tuple[State, Mapping[str, float]]:
    """Take over what was proven, refit what follows, and log both."""
    coupling, pools = choice.coupling, choice.pools
    for name, why in failed.items():
        where = " in the model's own class" if step.eager_safe else ""
        what = f"group {name} was left whole: its cut could not be proven{where} ({why})"
        state = state.log(step.key, what, fell_back=True)
    if done is None:
        return state, {}
    sizes = {name: coupling[name].size for name in done.removed}
    widths = ", ".join(f"{name} {sizes[name]} to {sizes[name] - len(units)}" for name, units in done.removed.items())
    state = state.log(step.key, f"cut {widths}", proof=done.proof.describe())
    remaining = {pool.pattern: pool.remaining(done.removed) for pool in pools}
    for pool in pools:
        kept = remaining[pool.pattern]
        if kept > pool.keep + 1e-6:
            short = "not every cut was proven" if failed else "the allowed widths reach no further"
            of = step.of if len(step.ratios) == 1 else f"{step.of} of {pool.pattern}"
            what = f"{of}: asked to keep {pool.keep:.1%}, kept {kept:.1%}; {short}"
            state = state.log(step.key, what, fell_back=True)
    if done.refused:
        what = (
            "the model is now a rewritten graph, for its own class, cut in place, did not pass the proof "
            f"({done.refused}); "
            "eager_safe=True keeps the class, and leaves whole what that cannot lose"
        )
        state = state.log(step.key, what, fell_back=True)
    state = take_over(state, done)
    return (_compensate(state, step, coupling, done, context) if step.compensate else state), remaining


def _compensate(state: State, step: PruneChannels, coupling: Coupling, done: Attempt, context: Context) -> State:
    """Refit what follows the cut in the model that it made."""
    workload = context.workload
    if workload is None or not workload.brings("calibration"):
        return state.log(step.key, "not compensated: that takes a workload with calibration data", fell_back=True)
    captured = coupling.captured
    batches = [
        captured.flatten(batch.args, batch.kwargs)
        for batch in affordable(workload.calibration_batches(), captured, device_of(state.model))
    ]
    tensors, refits = refit(
        captured, done.cut.captured, done.cut.surgery, batches, masks=state.masks, seed=context.seed
    )
    install(done.module, tensors)
    if not refits:
        what = "not compensated: no layer behind the cut is nearer to the original on held-out rows once refitted"
        return state.log(step.key, what, fell_back=True)
    before, after = (float(np.median([getattr(r, side) for r in refits])) for side in ("before", "after"))
    what = f"refitted {len(refits)} layers behind the cut: median output error on held-out rows"
    return state.log(step.key, f"{what} {before:.3f} to {after:.3f}")
