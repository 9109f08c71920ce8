"""Training that moves centroids instead of weights."""

from collections.abc import Mapping

import torch
from torch import nn

from penjing.techniques.cluster.palette import Palette
from penjing.training import Hook, LoopState


class KeepPalettes(Hook):
    """Keep weights on their palettes while the centroids train; the assignment stays.

    Each weight takes the pooled gradient of its centroid, so that an optimizer which treats weights one by one moves
    all of a centroid alike: momentum, decay and rates work on the centroid. Projection after the step sets right what
    others, such as a penalty, moved apart. Han et al. 2016 (arXiv:1510.00149), section 3.3.
    """

    def __init__(self, palettes: Mapping[str, Palette]) -> None:
        self.palettes = dict(palettes)
        self._kept: list[tuple[nn.Parameter, Palette]] = []

    def before_training(self, state: LoopState) -> None:
        parameters = {name: state.model.get_parameter(name) for name in self.palettes}
        self._kept = [(parameters[name], each.to(parameters[name].device)) for name, each in self.palettes.items()]

    def after_backward(self, state: LoopState) -> None:
        for parameter, palette in self._kept:
            if parameter.grad is not None:
                parameter.grad.copy_(palette.pooled(parameter.grad))

    def after_step(self, state: LoopState) -> None:
        with torch.no_grad():
            for parameter, palette in self._kept:
                parameter.copy_(palette.fitted(parameter).values())
