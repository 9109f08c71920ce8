"""The Rewind step: weights go back to what they once were, and zeros stay."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from penjing.errors import RecipeError
from penjing.recipe import Rewind
from penjing.storage import load_tensors
from penjing.structure import Surgery
from penjing.techniques.sparsify import copy_pruned, take_torch_masks
from penjing.techniques.state import Context, State


def run(state: State, step: Rewind, context: Context) -> State:
    """Set parameters and buffers to the earlier ones, sliced as the model was cut, and zero what the masks close.

    Raises ArtifactError for an unreadable file, RecipeError where a parameter is missing or of another shape.
    """
    early, source = _early(step, context)
    state = replace(state, masks={**state.masks, **take_torch_masks(state.model)})
    live = state.model.state_dict()
    surgery = state.surgery or Surgery({})
    back: dict[str, Tensor] = {}
    for name in live.keys() & early.keys():
        tensor = surgery.slice(name, early[name])
        if tensor.shape != live[name].shape:
            raise RecipeError(
                f"Rewind: {name} has shape {tuple(tensor.shape)} in {source} and {tuple(live[name].shape)} in the "
                "model; give weights of the very model that is optimised, as it was before any cut"
            )
        back[name] = tensor
    if missing := [name for name, _ in state.model.named_parameters() if name not in back]:
        raise RecipeError(f"Rewind: {source} has no tensor {missing[0]!r}; give the state_dict of this model")
    with torch.no_grad():
        for name, tensor in back.items():
            live[name].copy_(tensor)
        for name, mask in state.masks.items():
            state.model.get_parameter(name).masked_fill_(~mask.to(live[name].device), 0)
    zeros = sum(int((~mask).sum()) for mask in state.masks.values())
    return state.log(step.key, f"{len(back)} tensors are again those of {source}; {zeros} masked weights stay zero")


def _early(step: Rewind, context: Context) -> tuple[Mapping[str, Tensor], str]:
    """The earlier tensors, and what they are of."""
    if step.weights is not None:
        return load_tensors(step.weights), str(step.weights)
    given = copy_pruned(context.original)
    take_torch_masks(given)
    return given.state_dict(), "the model as it was given"
