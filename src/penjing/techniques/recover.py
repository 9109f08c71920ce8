"""The Finetune step: the recovery loop of the training room, with the masks kept and the original as the teacher."""

from penjing.errors import RecipeError
from penjing.recipe import Finetune
from penjing.techniques.state import Context, State
from penjing.training import KeepMasks, finetune


def run(state: State, step: Finetune, context: Context) -> State:
    """Train the state's model on; zeros that a step before has set stay zero."""
    if context.workload is None:
        raise RecipeError("Finetune needs train data; pass a Workload with train=")
    log = finetune(
        state.model,
        context.workload,
        step,
        teacher=context.original if step.distill else None,
        hooks=(KeepMasks(state.masks),) if state.masks else (),
        seed=context.seed,
        resume_dir=context.resume_dir,
        progress=context.progress,
    )
    return state.log(step.key, log.summary())
