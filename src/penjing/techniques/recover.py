"""The steps that train: the recovery loop of the training room, masks and palettes kept, with the teacher asked for."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from penjing.errors import RecipeError
from penjing.recipe import Distill, Training
from penjing.structure import capture
from penjing.techniques.cluster import KeepPalettes, refitted
from penjing.techniques.quantize.fake import RULES
from penjing.techniques.quantize.layers import is_quantized
from penjing.techniques.quantize.trainable import Trainable
from penjing.techniques.regularize.drop_filters import dropping_filters
from penjing.techniques.regularize.hook import Penalize
from penjing.techniques.regularize.terms import terms_of
from penjing.techniques.sparsify.regrow import ramp_of
from penjing.techniques.sparsify.technique import masks_at, told
from penjing.techniques.sparsify.thinning import Thin, thinned
from penjing.techniques.state import Context, State
from penjing.training import Hook, KeepMasks, TrainingLog, finetune


def run(state: State, step: Training, context: Context) -> State:
    """Train the state's model on; zeros and palettes of steps before stay, and scheduled zeros grow."""
    if context.workload is None:
        raise RecipeError(f"{type(step).__name__} needs train data; pass a Workload with train=")
    if is_quantized(state.model):
        return _train_quantized(state, step, context)
    scheduled = [(sparse, ramp_of(sparse, masks_at(state, sparse, context))) for sparse in state.ramps]
    penalties = [Penalize(each, terms_of(each, state.model, state.example)) for each in step.penalties]
    keep, ramps = KeepMasks(state.masks), [ramp for _, ramp in scheduled]
    thin = [Thin(state, context, keep, ramps)] if any(sparse.cut for sparse in state.ramps) else []
    if thin and (bound := _bound_to_widths(step)):
        raise RecipeError(
            f"{type(step).__name__}: {', '.join(bound)} cannot follow when Sparsify(cut=True) cuts the model; leave "
            "one of them out"
        )
    with dropping_filters(state.model, step.drop_filters):
        log = _trained(state.model, step, context, (*penalties, keep, *ramps, *thin, KeepPalettes(state.palettes)))
    state = _told(replace(refitted(state), ramps=()), step, log)
    for each in thin:
        state = thinned(state, each)
    for penalty in penalties:
        state = state.log(step.key, penalty.describe())
    for sparse, ramp in scheduled:
        state = told(replace(state, masks={**state.masks, **ramp.masks}), sparse, ramp.masks)
        if sparse.regrow is not None:
            state = state.log(sparse.key, f"{ramp.came_back} times a weight came back ({sparse.regrow})")
    return state


def _bound_to_widths(step: Training) -> list[str]:
    """What of a training holds weights or widths that a cut would replace."""
    held = {
        "regularize=": bool(step.penalties),
        "ema=": step.ema is not None,
        "losses= of layers": bool(step.terms.keys() - {"task", "logits"}),
    }
    return [name for name, there in held.items() if there]


def _train_quantized(state: State, step: Training, context: Context) -> State:
    """Train what stands behind the integers of a quantised model, and store what has come out."""
    if step.penalties or step.drop_filters:
        raise RecipeError(
            f"{type(step).__name__}: regularize= and drop_filters= are for floats; train so before Quantize"
        )
    workload = context.workload
    captured = capture(state.model, state.example, None if workload is None else workload.dynamic_shapes)
    trainable = Trainable(captured, RULES[step.rounding])
    log = _trained(trainable.model, step, context, (KeepMasks(state.masks), KeepPalettes(state.palettes)))
    trained, buffers = dict(trainable.model.named_buffers()), dict(state.model.named_buffers())
    kept = {name: value for name, value in trained.items() if name in buffers}  # of norms that stayed in float
    with torch.no_grad():
        for name, value in (kept | trainable.stored()).items():
            buffers[name].copy_(value)
    return _told(refitted(state), step, log, f"quantised, rounding by {step.rounding}: ")


def _trained(model: nn.Module, step: Training, context: Context, hooks: Sequence[Hook]) -> TrainingLog:
    assert context.workload is not None
    return finetune(
        model,
        context.workload,
        step,
        teacher=_teacher(step, context),
        hooks=hooks,
        seed=context.seed,
        resume_dir=context.resume_dir,
        progress=context.progress,
    )


def _told(state: State, step: Training, log: TrainingLog, how: str = "") -> State:
    """Log how the training went."""
    state = state.log(step.key, how + log.summary())
    if step.reestimate_norms and (log.norms is None or not log.norms.kept):
        what = log.norms or "the model has no batch norm with running statistics to take anew"
        state = state.log(step.key, str(what), fell_back=True)
    return state


def _teacher(step: Training, context: Context) -> nn.Module | None:
    if isinstance(step, Distill) and isinstance(step.teacher, nn.Module):
        return step.teacher
    return context.original if step.needs_original else None
