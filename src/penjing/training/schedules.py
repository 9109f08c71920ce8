"""Learning-rate schedules: pure functions of how much of the training is done."""

import math
from collections.abc import Callable, Sequence
from functools import partial

from penjing.recipe.training_steps import Training


def cosine(rest: float) -> float:
    """Half a cosine, (1 + cos(pi t)) / 2: Loshchilov and Hutter 2017, "SGDR" (arXiv:1608.03983)."""
    return (1 + math.cos(math.pi * rest)) / 2


def linear(rest: float) -> float:
    """A straight line to zero, 1 - t."""
    return 1 - rest


def constant(rest: float) -> float:
    """The peak until the end."""
    return 1.0


def multi_step(rest: float, milestones: Sequence[float]) -> float:
    """A tenth after each milestone: He et al. 2016 (arXiv:1512.03385, section 4.2) have them at 1/2 and 3/4.

    >>> [round(multi_step(t, (0.5, 0.75)), 3) for t in (0.4, 0.5, 0.9)]
    [1.0, 0.1, 0.01]
    """
    return float(0.1 ** sum(rest >= share for share in milestones))


def warmed_up(done: float, decay: Callable[[float], float], warmup: float = 0.0) -> float:
    """Give the factor on the peak learning rate after a share `done` in [0, 1] of all steps.

    f(t) = t / w for t < w, and decay((t - w) / (1 - w)) after: a linear rise over the share `warmup` (Goyal et al.
    2017, arXiv:1706.02677).

    >>> [round(warmed_up(t, cosine, warmup=0.2), 3) for t in (0.1, 0.2, 0.6, 1.0)]
    [0.5, 1.0, 0.5, 0.0]
    """
    if done < warmup:
        return done / warmup
    return 1.0 if warmup >= 1 else decay((done - warmup) / (1 - warmup))


def decay_of(step: Training) -> Callable[[float], float]:
    """The factor after the warm-up, as a function of the share of the rest that is done."""
    decays: dict[str, Callable[[float], float]] = {
        "cosine": cosine,
        "linear": linear,
        "constant": constant,
        "multi_step": partial(multi_step, milestones=step.milestones),
    }
    return decays[step.schedule]


def step_factor(number: int, total: int, step: Training) -> float:
    """Give the factor for training step `number` of `total`, counted from 0, at the middle of the step.

    The middle, because a step at either end of the schedule would have a learning rate of zero and teach nothing.

    >>> step_factor(0, 1, Training()) > 0 and step_factor(9, 10, Training(warmup=0.5)) > 0
    True
    """
    return warmed_up((number + 0.5) / total, decay_of(step), step.warmup)
