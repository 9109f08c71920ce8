"""The DropBlocks step: capture, find blocks, score, choose one at a time, leave them out, prove."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatch

from penjing.errors import RecipeError
from penjing.recipe import DropBlocks
from penjing.structure import Captured, capture
from penjing.structure.blocks import Block, branches, find_blocks, layers
from penjing.techniques.depth.attempt import largest_proven
from penjing.techniques.depth.scores import Evidence, find_score
from penjing.techniques.state import Context, State
from penjing.types import Unit
from penjing.workload import Batch, device_of, preserved

SAMPLES = 512


def run(state: State, step: DropBlocks, context: Context) -> State:
    """Apply the step. Raises RecipeError for an unknown score, a score without its data, a name that nothing has."""
    score = find_score(step.score)
    captured = capture(state.model, state.example)
    candidates = chosen_blocks(captured, step)
    if not candidates:
        what = "no block of this model can be bypassed: none is a branch f of a sum x + f(x) of equal shapes"
        return state.log(step.key, what, fell_back=True)
    wanted = step.count if isinstance(step.count, int) else max(1, round(step.count * len(candidates)))
    if step.count == 0:
        return state.log(step.key, "nothing asked for: count is 0")
    batches = tuple(_batches(state, step, captured, context)) if score.needs_data else ()
    with preserved(state.model):
        state.model.eval()
        evidence = Evidence(captured, (), batches, context.workload, context.seed)
        chosen = _choose(candidates, step, evidence, wanted)
    return _carry_out(state, step, captured, chosen, len(candidates), wanted, context)


def chosen_blocks(captured: Captured, step: DropBlocks) -> tuple[Block, ...]:
    """Give the blocks that the step may drop; a pattern that matches nothing is a RecipeError."""
    found = find_blocks(captured)
    blocks = layers(found) if step.unit is Unit.LAYER else branches(found)
    for field, patterns in (("blocks", step.blocks or ()), ("exclude", step.exclude)):
        for pattern in patterns:
            if not any(fnmatch(block.name, pattern) for block in blocks):
                known = ", ".join(block.name for block in blocks) or "none"
                raise RecipeError(
                    f"DropBlocks: {field} names {pattern!r}, which is no {step.unit} that can be bypassed; those are "
                    f"{known}"
                )
    return tuple(
        block
        for block in blocks
        if (step.blocks is None or any(fnmatch(block.name, pattern) for pattern in step.blocks))
        and not any(fnmatch(block.name, pattern) for pattern in step.exclude)
    )


def _batches(state: State, step: DropBlocks, captured: Captured, context: Context) -> Iterator[Batch]:
    """Read calibration data, as much as is useful."""
    workload = context.workload
    if workload is None or not workload.brings("calibration"):
        raise RecipeError(
            f"DropBlocks: score={step.score!r} runs the model on data; pass a Workload with calibration= or train=, or "
            "use score='weight', which needs none and guesses"
        )
    left = SAMPLES
    for batch in workload.calibration_batches():
        if captured.fixed_batch and batch.size != captured.example.batch_size:
            continue
        yield batch.to(device_of(state.model))
        left -= batch.size
        if left <= 0:
            return
    if left == SAMPLES:
        raise RecipeError(
            f"DropBlocks: score={step.score!r} needs calibration batches of {captured.example.batch_size} samples: the "
            f"model is captured for no other size ({captured.fixed_batch})"
        )


def _choose(
    candidates: Sequence[Block], step: DropBlocks, evidence: Evidence, wanted: int
) -> tuple[tuple[Block, float], ...]:
    """Choose the block with the lowest score, again and again; each time the model is without those chosen before."""
    score = find_score(step.score)
    left = list(candidates)
    chosen: list[tuple[Block, float]] = []
    values: list[float] = []
    while left and len(chosen) < wanted:
        if score.is_greedy or not chosen:
            dropped = tuple(block for block, _ in chosen)
            values = score.function(left, replace(evidence, dropped=dropped))
        place = min(range(len(left)), key=values.__getitem__)
        chosen.append((left.pop(place), values.pop(place)))
    return tuple(chosen)


def _carry_out(
    state: State,
    step: DropBlocks,
    captured: Captured,
    chosen: Sequence[tuple[Block, float]],
    count: int,
    wanted: int,
    context: Context,
) -> State:
    done, failed = largest_proven(state, captured, [block for block, _ in chosen], context.prefer)
    for name, why in failed.items():
        state = state.log(step.key, f"{name} was kept: leaving it out could not be proven ({why})", fell_back=True)
    if done is None:
        return state
    names = {block.name for block in done.blocks}
    told = ", ".join(f"{block.name} ({value:.3g})" for block, value in chosen if block.name in names)
    what = f"left out {len(names)} of {count} {step.unit}s, by {step.score}: {told}"
    state = state.log(step.key, what, proof=done.proof.describe())
    if len(names) < wanted and not failed:
        state = state.log(step.key, f"asked for {wanted}, but only {count} can be bypassed", fell_back=True)
    surgery = state.surgery
    if done.surgery is None:
        if done.refused:
            what = f"the model is now a rewritten graph: {done.refused}"
            state = state.log(step.key, what, fell_back=True)
    else:
        surgery = done.surgery if surgery is None else surgery.then(done.surgery)
    alive = {name for name, _ in done.module.named_parameters(remove_duplicate=False)}
    masks = {name: mask for name, mask in state.masks.items() if name in alive}
    return replace(state, model=done.module, masks=masks, surgery=surgery, graph=state.graph or done.surgery is None)
