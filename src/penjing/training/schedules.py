"""Learning-rate schedules: pure functions of how much of the training is done."""

import math


def warmup_cosine(done: float, warmup: float = 0.0) -> float:
    r"""Give the factor on the peak learning rate after a share `done` in [0, 1] of all steps.

    f(t) = t / w for t < w, and (1 + cos(pi (t - w) / (1 - w))) / 2 after: a linear rise over the share `warmup` (Goyal
    et al. 2017, arXiv:1706.02677), then half a cosine (Loshchilov and Hutter 2017, "SGDR", arXiv:1608.03983).

    >>> [round(warmup_cosine(t, warmup=0.2), 3) for t in (0.1, 0.2, 0.6, 1.0)]
    [0.5, 1.0, 0.5, 0.0]
    """
    if done < warmup:
        return done / warmup
    if warmup >= 1:
        return 1.0
    return (1 + math.cos(math.pi * (done - warmup) / (1 - warmup))) / 2


def step_factor(step: int, total: int, warmup: float = 0.0) -> float:
    """Give the factor for step number `step` of `total`, counted from 0, at the middle of the step.

    The middle, because a step at either end of the schedule would have a learning rate of zero and teach nothing.

    >>> step_factor(0, 1) > 0 and step_factor(9, 10, warmup=0.5) > 0
    True
    """
    return warmup_cosine((step + 0.5) / total, warmup)
