"""The Finetune step: the recovery loop of the training room, with the masks kept and the original as the teacher."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from penjing.errors import RecipeError
from penjing.recipe import Finetune
from penjing.structure import capture
from penjing.techniques.quantize.fake import RULES
from penjing.techniques.quantize.layers import is_quantized
from penjing.techniques.quantize.trainable import Trainable
from penjing.techniques.sparsify.ramp import Ramp
from penjing.techniques.sparsify.technique import masks_at, told
from penjing.techniques.state import Context, State
from penjing.training import Hook, KeepMasks, TrainingLog, finetune


def run(state: State, step: Finetune, context: Context) -> State:
    """Train the state's model on; zeros that a step before has set stay zero, and scheduled ones grow."""
    if context.workload is None:
        raise RecipeError("Finetune needs train data; pass a Workload with train=")
    if is_quantized(state.model):
        return _train_quantized(state, step, context)
    scheduled = [(sparse, Ramp(sparse, masks_at(state, sparse, context))) for sparse in state.ramps]
    log = _trained(state.model, state, step, context, [ramp for _, ramp in scheduled])
    state = replace(state, ramps=()).log(step.key, log.summary())
    for sparse, ramp in scheduled:
        state = told(replace(state, masks={**state.masks, **ramp.masks}), sparse, ramp.masks)
    return state


def _train_quantized(state: State, step: Finetune, context: Context) -> State:
    """Train what stands behind the integers of a quantised model, and store what has come out."""
    workload = context.workload
    captured = capture(state.model, state.example, None if workload is None else workload.dynamic_shapes)
    trainable = Trainable(captured, RULES[step.rounding])
    log = _trained(trainable.model, state, step, context)
    buffers = dict(state.model.named_buffers())
    with torch.no_grad():
        for name, value in trainable.stored().items():
            buffers[name].copy_(value)
    return state.log(step.key, f"quantised, rounding by {step.rounding}: {log.summary()}")


def _trained(
    model: nn.Module, state: State, step: Finetune, context: Context, hooks: Sequence[Hook] = ()
) -> TrainingLog:
    assert context.workload is not None
    return finetune(
        model,
        context.workload,
        step,
        teacher=context.original if step.distill else None,
        hooks=(*([KeepMasks(state.masks)] if state.masks else []), *hooks),
        seed=context.seed,
        resume_dir=context.resume_dir,
        progress=context.progress,
    )
