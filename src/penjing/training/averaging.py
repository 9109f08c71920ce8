"""A moving average of the weights, which often generalises better than the last ones."""

import torch
from torch import nn

from penjing.training.checkpoint import Tensors, tensors_of


def decay_at(updates: int, decay: float) -> float:
    """The decay of the average after so many updates, min(d, (1 + n) / (10 + n)): early weights are soon forgotten.

    >>> [round(decay_at(n, 0.99), 3) for n in (0, 10, 10_000)]
    [0.1, 0.55, 0.99]
    """
    return min(decay, (1 + updates) / (10 + updates))


def update_average(average: Tensors, model: nn.Module, updates: int, decay: float) -> None:
    r"""Move an average towards a model in place, a <- d a + (1 - d) w, after its optimizer step number `updates`.

    Polyak and Juditsky 1992, "Acceleration of Stochastic Approximation by Averaging" (doi:10.1137/0330046) take the
    mean over all steps; the exponential form forgets. Running statistics are averaged, counters are copied. A parameter
    that is zero in the model is zero in the average, so that masks hold in both.
    """
    weight = 1 - decay_at(updates, decay)
    trained = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    with torch.no_grad():
        for name, value in tensors_of(model).items():
            if value.is_floating_point():
                average[name].lerp_(value, weight)
                if name in trained:
                    average[name].masked_fill_(value == 0, 0)
            else:
                average[name].copy_(value)
