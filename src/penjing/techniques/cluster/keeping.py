"""Palettes from step to step: what training and surgery leave of them."""

from dataclasses import replace

import torch

from penjing.techniques.state import State


def refitted(state: State) -> State:
    """The state after a training that has kept palettes: their centroids are those of the weights now."""
    palettes = {}
    with torch.no_grad():
        for name, palette in state.palettes.items():
            parameter = state.model.get_parameter(name)
            palettes[name] = palette.to(parameter.device).fitted(parameter)
            parameter.copy_(palettes[name].values())
    return replace(state, palettes=palettes)


def surviving(state: State, key: str) -> State:
    """The state with the palettes that its weights still lie on; a row tells of the others.

    key: that of the step which has made the state.
    """
    parameters = dict(state.model.named_parameters(remove_duplicate=False))
    kept = {name: each for name, each in state.palettes.items() if name in parameters and each.holds(parameters[name])}
    if lost := [name for name in state.palettes if name not in kept]:
        what = (
            f"palettes lost, for {key} has changed or replaced these weights: {', '.join(lost)}; let Cluster follow it"
        )
        state = state.log(key, what, fell_back=True)
    return replace(state, palettes=kept)
