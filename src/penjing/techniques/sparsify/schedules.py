"""How sparsity grows while a model trains: the share of what goes in the end, as a function of the ramp's progress.

A schedule takes the progress t in [0, 1] and the final sparsity s in [0, 1), and gives a factor in [0, 1] on s.
"""

import math
from collections.abc import Callable

from penjing.errors import RecipeError

Schedule = Callable[[float, float], float]


def constant(t: float, final: float) -> float:
    """All at once, where the ramp begins.

    >>> constant(0.0, 0.9)
    1.0
    """
    return 1.0


def linear(t: float, final: float) -> float:
    """f(t) = t.

    >>> linear(0.25, 0.9)
    0.25
    """
    return t


def cubic(t: float, final: float) -> float:
    """f(t) = 1 - (1 - t)^3: fast while there is redundancy, slow at the end.

    Automated gradual pruning: Zhu and Gupta 2017, "To prune, or not to prune" (arXiv:1710.01878), equation 1, from an
    initial sparsity of zero; the polynomial decay of TensorFlow Model Optimization with its default power.

    >>> cubic(0.5, 0.9)
    0.875
    """
    return 1 - (1 - t) ** 3


def exponential(t: float, final: float) -> float:
    """f(t) = (1 - (1 - s)^t) / s: each update removes the same share of what is left.

    >>> round(0.75 * exponential(0.5, 0.75), 6)
    0.5
    """
    return (1 - (1 - final) ** t) / final if final else t


def multi_step(t: float, final: float) -> float:
    """Four equal steps, with training between them.

    >>> [multi_step(t, 0.9) for t in (0.0, 0.3, 1.0)]
    [0.25, 0.5, 1.0]
    """
    return min(1.0, (math.floor(4 * t) + 1) / 4)


def cyclic(t: float, final: float) -> float:
    """Three cubic ramps in a row: weights that went wrongly may come back between them.

    Srinivas et al. 2022, "Cyclical Pruning for Sparse Neural Networks" (arXiv:2202.01290).

    >>> cyclic(1 / 3 + 1e-9, 0.9) < 0.01, cyclic(1.0, 0.9)
    (True, 1.0)
    """
    return 1.0 if t >= 1 else cubic(3 * t % 1.0, final)


SCHEDULES: dict[str, Schedule] = {
    schedule.__name__: schedule for schedule in (constant, linear, cubic, exponential, multi_step, cyclic)
}


def find_schedule(name: str) -> Schedule:
    """Look up a schedule by name; raises RecipeError, with the known names, for another."""
    if name not in SCHEDULES:
        raise RecipeError(f"Sparsify: schedule={name!r} is unknown; use one of {', '.join(SCHEDULES)}")
    return SCHEDULES[name]
