"""What a number of samples can certify, told before any training.

Everything here is for paired right-or-wrong scores and Tango's score limit. `discordance` is the share of samples on
which exactly one of the two models is right; a drop is the share lost minus the share gained, so it never exceeds the
discordance. Probabilities are exact: they sum the trinomial distribution of (lost, gained, same).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from penjing.errors import ContractError
from penjing.verdict.tango import score_statistic

HALVINGS = 30
LARGEST_N = 10**9


@dataclass(frozen=True, slots=True)
class Power:
    """What `n` samples can certify at an assumed discordance.

    smallest_drop: the smallest max_drop that a candidate equal to its reference passes with `probability`.
    typical_drop: the same at even odds; below it a contract is undecidable even for an equal model. The rest is about a
    contract's `max_drop` and None without one. pass_probability: of an equal model. largest_drop: the largest true drop
    that passes with `probability` (None where even an equal model does not); typical_largest_drop: the same at even
    odds. n_needed: samples with which an equal model passes with `probability`.
    """

    n: int
    discordance: float
    alpha: float
    probability: float
    smallest_drop: float
    typical_drop: float
    max_drop: float | None = None
    pass_probability: float | None = None
    largest_drop: float | None = None
    typical_largest_drop: float | None = None
    n_needed: int | None = None

    def sentence(self) -> str:
        """Say it in plain English; drops in points (hundredths)."""
        text = (
            f"With {self.n:,} samples of which {100 * self.discordance:.3g} % are answered differently, a model equal "
            f"to its reference can certify a drop of at most {100 * self.smallest_drop:.2f} points "
            f"({self.probability:.0%} probability, {1 - self.alpha:.0%} confidence)."
        )
        if self.max_drop is None:
            return text
        text += f" A contract of {100 * self.max_drop:.2f} points passes "
        if self.largest_drop is None:
            return (
                text
                + f"an equal model with probability {self.pass_probability:.0%}; it needs {self.n_needed:,} samples."
            )
        return text + f"up to a true drop of {100 * self.largest_drop:.2f} points."


def power(
    n: int, discordance: float, alpha: float = 0.05, max_drop: float | None = None, probability: float = 0.8
) -> Power:
    """Tell what `n` samples can certify at level `alpha` when a share `discordance` of them is answered differently.

    Raises ContractError for values out of range.

    >>> print(power(5000, 0.05, max_drop=0.005).sentence())
    With 5,000 samples of which 5 % are answered differently, a model equal to its reference can certify a drop of at
    most 0.79 points (80% probability, 95% confidence). A contract of 0.50 points passes an equal model with
    probability 47%; it needs 12,414 samples.
    """
    _check("n", n, 1, LARGEST_N)
    _check("probability", probability, 0.01, 0.999)
    plain = Power(
        n,
        discordance,
        alpha,
        probability,
        smallest_drop=smallest_margin(n, discordance, alpha, probability),
        typical_drop=smallest_margin(n, discordance, alpha, probability=0.5),
    )
    if max_drop is None:
        return plain
    return Power(
        n,
        discordance,
        alpha,
        probability,
        plain.smallest_drop,
        plain.typical_drop,
        max_drop,
        pass_probability=pass_probability(n, discordance, 0.0, max_drop, alpha),
        largest_drop=largest_drop(n, discordance, max_drop, alpha, probability),
        typical_largest_drop=largest_drop(n, discordance, max_drop, alpha, probability=0.5),
        n_needed=n_needed(discordance, max_drop, alpha, probability=probability),
    )


def pass_probability(n: int, discordance: float, drop: float, margin: float, alpha: float) -> float:
    r"""Give the exact probability that Tango's upper limit is at most `margin`.

    P = sum_m Bin(m; n, discordance) * P(lost <= b(m) | m), lost | m ~ Bin(m, (1 + drop/discordance) / 2), where b(m) is
    the largest number of losses among m differing pairs with T(margin) <= -z.

    >>> round(pass_probability(10_000, 0.05, drop=0.01, margin=0.01, alpha=0.05), 3)
    0.05
    """
    from scipy.special import bdtr, ndtri
    from scipy.stats import binom

    _check("discordance", discordance, 0, 1)
    _check("alpha", alpha, 1e-12, 0.5)
    if abs(drop) > discordance:
        raise ContractError(
            f"power: a drop of {drop:g} needs at least as large a discordance, not {discordance:g}; raise discordance"
        )
    # Beyond eight standard deviations (and forty counts, for the Poisson end) no mass is left that matters.
    spread = 8 * math.sqrt(n * discordance * (1 - discordance)) + 40
    m = np.arange(max(0, math.floor(n * discordance - spread)), min(n, math.ceil(n * discordance + spread)) + 1)
    z = float(ndtri(1 - alpha))
    # Invariant: `passing` losses pass (-1: not even none do), `failing` do not.
    passing, failing = np.full(m.shape, -1), m + 1
    while np.any(failing - passing > 1):
        middle = (passing + failing) // 2
        inside = failing - passing > 1
        good = inside & (score_statistic(middle, m - middle, n, margin) <= -z)
        passing, failing = np.where(good, middle, passing), np.where(inside & ~good, middle, failing)
    lost_share = 0.5 + drop / (2 * discordance) if discordance > 0 else 0.5
    conditional = np.where(passing < 0, 0.0, bdtr(np.maximum(passing, 0), m, lost_share))
    return float(np.clip(binom.pmf(m, n, discordance) @ conditional, 0, 1))


def smallest_margin(n: int, discordance: float, alpha: float, probability: float = 0.8) -> float:
    """Give the smallest max_drop that a candidate equal to its reference passes with `probability`.

    About (z_{1-alpha} + z_probability) * sqrt(discordance / n); solved exactly.

    >>> round(smallest_margin(5000, 0.05, alpha=0.05, probability=0.5), 4)
    0.0052
    """
    return _boundary(lambda margin: pass_probability(n, discordance, 0.0, margin, alpha) >= probability, 1.0, 0.0)


def largest_drop(n: int, discordance: float, margin: float, alpha: float, probability: float = 0.8) -> float | None:
    """Give the largest true drop that passes a contract of `margin` with `probability`; None if none from zero up does.

    About margin - (z_{1-alpha} + z_probability) * sqrt(discordance / n); solved exactly.

    >>> round(largest_drop(10_000, 0.05, margin=0.01, alpha=0.05, probability=0.5), 4)
    0.0063
    """

    def passes(drop: float) -> bool:
        return pass_probability(n, discordance, drop, margin, alpha) >= probability

    if not passes(0.0):
        return None
    return _boundary(passes, 0.0, min(margin, discordance))


def n_needed(
    discordance: float, margin: float, alpha: float, drop: float = 0.0, probability: float = 0.8
) -> int | None:
    """Give the number of samples with which a true `drop` passes a contract of `margin` with `probability`.

    Starts at (z_{1-alpha} + z_probability)^2 * (discordance - drop^2) / (margin - drop)^2 and is settled by the exact
    probability, to within a thousandth; None where the drop is not below the margin or a billion samples are too few.

    >>> n_needed(0.0, margin=0.01, alpha=0.05)  # identical pairs: z^2 * (1 - margin) / margin
    268
    """
    from scipy.special import ndtri

    if drop >= margin:
        return None
    z = float(ndtri(1 - alpha)) + float(ndtri(probability))
    guess = z * z * max(discordance - drop * drop, margin) / (margin - drop) ** 2

    def passes(n: int) -> bool:
        return pass_probability(n, discordance, drop, margin, alpha) >= probability

    high = max(1, math.ceil(guess))
    while high <= LARGEST_N and not passes(high):
        high *= 2
    if high > LARGEST_N:
        return None
    low = 0
    while high - low > max(1, high // 1000):
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    return high


def _boundary(passes: Callable[[float], bool], inside: float, outside: float) -> float:
    """Give the last point on the way from `inside` to `outside` that passes, by bisection."""
    if passes(outside):
        return outside
    for _ in range(HALVINGS):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if passes(middle) else (inside, middle)
    return inside


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ContractError(f"power: {name}={value!r} must lie in [{low:g}, {high:g}]")
