"""The Finetune step: the recovery loop of the training room, with the masks kept and the original as the teacher."""

from dataclasses import replace

from penjing.errors import RecipeError
from penjing.recipe import Finetune
from penjing.techniques.regularize.drop_filters import dropping_filters
from penjing.techniques.regularize.hook import Penalize
from penjing.techniques.regularize.terms import terms_of
from penjing.techniques.sparsify.regrow import ramp_of
from penjing.techniques.sparsify.technique import masks_at, told
from penjing.techniques.sparsify.thinning import Thin, thinned
from penjing.techniques.state import Context, State
from penjing.training import KeepMasks, finetune


def run(state: State, step: Finetune, context: Context) -> State:
    """Train the state's model on; zeros that a step before has set stay zero, and scheduled ones grow."""
    if context.workload is None:
        raise RecipeError("Finetune needs train data; pass a Workload with train=")
    scheduled = [(sparse, ramp_of(sparse, masks_at(state, sparse, context))) for sparse in state.ramps]
    penalties = [Penalize(each, terms_of(each, state.model, state.example)) for each in step.penalties]
    keep, ramps = KeepMasks(state.masks), [ramp for _, ramp in scheduled]
    thin = [Thin(state, context, keep, ramps)] if any(sparse.cut for sparse in state.ramps) else []
    if thin and penalties:
        raise RecipeError("Finetune: regularize= holds weights that Sparsify(cut=True) replaces; leave one of them out")
    with dropping_filters(state.model, step.drop_filters):
        log = finetune(
            state.model,
            context.workload,
            step,
            teacher=context.original if step.distill else None,
            hooks=(*penalties, keep, *ramps, *thin),
            seed=context.seed,
            resume_dir=context.resume_dir,
            progress=context.progress,
        )
    state = replace(state, ramps=()).log(step.key, log.summary())
    for each in thin:
        state = thinned(state, each)
    for penalty in penalties:
        state = state.log(step.key, penalty.describe())
    for sparse, ramp in scheduled:
        state = told(replace(state, masks={**state.masks, **ramp.masks}), sparse, ramp.masks)
        if sparse.regrow is not None:
            state = state.log(sparse.key, f"{ramp.came_back} times a weight came back ({sparse.regrow})")
    return state
