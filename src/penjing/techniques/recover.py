"""The steps that train: the recovery loop of the training room, with the masks kept, and the teacher they ask for."""

from dataclasses import replace

from torch import nn

from penjing.errors import RecipeError
from penjing.recipe import Distill, Training
from penjing.techniques.sparsify.ramp import Ramp
from penjing.techniques.sparsify.technique import masks_at, told
from penjing.techniques.state import Context, State
from penjing.training import KeepMasks, finetune


def run(state: State, step: Training, context: Context) -> State:
    """Train the state's model on; zeros that a step before has set stay zero, and scheduled ones grow."""
    if context.workload is None:
        raise RecipeError(f"{type(step).__name__} needs train data; pass a Workload with train=")
    scheduled = [(sparse, Ramp(sparse, masks_at(state, sparse, context))) for sparse in state.ramps]
    log = finetune(
        state.model,
        context.workload,
        step,
        teacher=_teacher(step, context),
        hooks=(*([KeepMasks(state.masks)] if state.masks else []), *(ramp for _, ramp in scheduled)),
        seed=context.seed,
        resume_dir=context.resume_dir,
        progress=context.progress,
    )
    state = replace(state, ramps=()).log(step.key, log.summary())
    if step.reestimate_norms and (log.norms is None or not log.norms.kept):
        what = log.norms or "the model has no batch norm with running statistics to take anew"
        state = state.log(step.key, str(what), fell_back=True)
    for sparse, ramp in scheduled:
        state = told(replace(state, masks={**state.masks, **ramp.masks}), sparse, ramp.masks)
    return state


def _teacher(step: Training, context: Context) -> nn.Module | None:
    if isinstance(step, Distill) and isinstance(step.teacher, nn.Module):
        return step.teacher
    return context.original if step.needs_original else None
