"""A Sparsify step as a hook, for models that another loop trains."""

from torch import nn

from penjing.errors import RecipeError
from penjing.recipe import Sparsify
from penjing.techniques.sparsify.ramp import Ramp
from penjing.techniques.sparsify.regrow import ramp_of
from penjing.techniques.sparsify.technique import masks_at, run
from penjing.techniques.state import Context, State
from penjing.training import KeepMasks
from penjing.types import Solver
from penjing.workload import ExampleInputs, Workload


def sparsity_hook(
    model: nn.Module, step: Sparsify, workload: Workload | None = None, seed: int = 0
) -> Ramp | KeepMasks:
    """Carry out a Sparsify step while a loop of one's own, transformers or Lightning trains a model.

    With a schedule the zeros grow as that loop goes on; else they are set at once, and kept. Adapters:
    `penjing.training.callbacks`. `hook.masks` says which weights live. workload: for scores that look at data.

    Raises RecipeError as the step does in `apply`, for cut=True, and for methods that solve layers.

    >>> import torch
    >>> model = nn.Linear(4, 4)
    >>> hook = sparsity_hook(model, Sparsify(0.5))
    >>> int(hook.masks["weight"].sum()), int(model.weight.count_nonzero())
    (8, 8)
    """
    if step.cut:
        raise RecipeError(
            "sparsity_hook: cut=True replaces the parameters that a foreign loop holds; leave it out, and apply "
            "Lossless() to the trained model"
        )
    if step.method != Solver.MAGNITUDE:
        raise RecipeError(
            f"sparsity_hook: method='{step.method}' solves layers at once and replaces the parameters that a foreign "
            "loop holds; apply the step first, and give the loop KeepMasks(outcome.masks)"
        )
    context = Context(workload, model, seed=seed)
    state = run(State(model, ExampleInputs()), step, context)
    return ramp_of(step, masks_at(state, step, context)) if state.ramps else KeepMasks(state.masks)
