"""The Sparsify step: score, mask, zero."""

from dataclasses import replace

import torch

from penjing.errors import RecipeError
from penjing.recipe import Sparsify
from penjing.techniques.sparsify.masks import lowest_scores_mask
from penjing.techniques.sparsify.parameters import parametrized_names, resolve
from penjing.techniques.sparsify.report import sparsity
from penjing.techniques.sparsify.scores import SCORES
from penjing.techniques.sparsify.torch_masks import take_torch_masks
from penjing.techniques.state import Context, State
from penjing.types import Scope

PATTERNS = ("unstructured",)


def run(state: State, step: Sparsify, context: Context) -> State:
    """Zero the weights with the lowest scores and remember the masks.

    Masks of earlier steps and of torch.nn.utils.prune stay; `amount` counts the weights that are still alive, as in
    torch. Raises RecipeError for an unknown pattern, score, schedule or parameter.
    """
    _check(step)
    masks = {**state.masks, **take_torch_masks(state.model)}
    names = resolve(step.parameters, context.original, state.model)
    if not names:
        raise RecipeError("Sparsify: the model has no convolution or linear weight; name tensors with parameters=[...]")
    weights = [state.model.get_parameter(name) for name in names]
    alive = [
        masks.get(name, torch.ones_like(w, dtype=torch.bool)).to(w.device)
        for name, w in zip(names, weights, strict=True)
    ]

    generator = torch.Generator().manual_seed(context.seed)
    with torch.no_grad():
        scores = [SCORES[step.score](weight, generator) for weight in weights]
        if step.scope is Scope.GLOBAL:
            new = lowest_scores_mask(scores, alive, step.amount)
        else:
            new = [lowest_scores_mask([s], [a], step.amount)[0] for s, a in zip(scores, alive, strict=True)]
        for weight, mask in zip(weights, new, strict=True):
            weight.masked_fill_(~mask, 0)

    state = replace(state, masks={**masks, **dict(zip(names, new, strict=True))})
    for row in sparsity(state.model, names):
        state = state.log(step.key, row.describe())
    if step.parameters is None:
        for name in parametrized_names(state.model):
            state = state.log(step.key, f"{name} is parametrised and was left alone", fell_back=True)
    return state.log(
        step.key, "unstructured zeros make no runtime here faster; they make the file smaller once it is saved compact"
    )


def _check(step: Sparsify) -> None:
    if step.pattern not in PATTERNS:
        raise RecipeError(f"Sparsify: pattern={step.pattern!r} is unknown; use one of {', '.join(PATTERNS)}")
    if step.score not in SCORES:
        raise RecipeError(f"Sparsify: score={step.score!r} is unknown; use one of {', '.join(SCORES)}")
    if step.schedule is not None:
        raise RecipeError(
            f"Sparsify: schedule={step.schedule!r} is unknown; leave it None and alternate Sparsify with Finetune steps"
        )
