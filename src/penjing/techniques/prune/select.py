"""Which units go: the lowest scores, until what remains costs little enough.

One number t in [0, 1] sets all widths: the share of each group that goes (local), or the quantile of all scores below
which units go (global). Widths are rounded, so they fall in steps and never rise with t; the least t whose cost is
within the budget is found by bisection. The cost is passed in: channels, parameters, MACs or a measured latency.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penjing.types import Scope

Units = NDArray[np.int64]
Cost = Callable[[Mapping[str, Units]], float]


@dataclass(frozen=True)
class Widths:
    """What widths are allowed: multiples of `multiple`, at least `least` (or the whole group, if it is smaller)."""

    multiple: int = 1
    least: int = 1

    def in_units(self, block: int) -> "Widths":
        """Give the same limits counted in units of `block` channels each.

        >>> Widths(multiple=8, least=20).in_units(4), Widths(multiple=8).in_units(32)
        (Widths(multiple=2, least=5), Widths(multiple=1, least=1))
        """
        return Widths(self.multiple // math.gcd(self.multiple, block), -(-self.least // block))

    def round(self, wanted: int, size: int) -> int:
        """Give the allowed width nearest to the wanted one; a group may always stay whole.

        >>> Widths(multiple=8).round(11, 16), Widths(multiple=8).round(13, 16), Widths(multiple=8).round(2, 20)
        (8, 16, 8)
        """
        lowest = min(size, max(self.multiple, -(-self.least // self.multiple) * self.multiple))
        rounded = int(np.floor(wanted / self.multiple + 0.5)) * self.multiple
        return min(size, max(lowest, rounded))


_ANY = Widths()


@dataclass(frozen=True)
class Selection:
    """The units to remove from each group, and the share of the cost that remains with them gone."""

    removed: Mapping[str, Units]
    remaining: float


def select(
    scores: Mapping[str, NDArray[np.float64]],
    keep: float,
    cost: Cost,
    *,
    scope: Scope = Scope.GLOBAL,
    widths: Mapping[str, Widths] | None = None,
) -> Selection:
    """Choose the units to remove so that at most `keep` of the cost remains, or as little as the widths allow.

    scores: [size] per group, higher is more important. Under the global scope each group's scores are divided by their
    mean first, so that layers of different scale compete fairly. widths: what is allowed in a group, in units; any
    width where a group is not named.

    >>> s = select({"a": np.array([1.0, 4.0, 3.0, 2.0])}, 0.5, lambda removed: 4 - sum(map(len, removed.values())))
    >>> s.removed["a"].tolist(), s.remaining
    ([0, 3], 0.5)
    """
    widths = widths or {}
    order = {name: np.argsort(values, kind="stable") for name, values in scores.items()}
    compared = {name: values / max(float(values.mean()), 1e-300) for name, values in scores.items()}
    pooled = np.sort(np.concatenate(list(compared.values()))) if scores else np.empty(0)

    def removed_at(t: float) -> dict[str, Units]:
        gone: dict[str, Units] = {}
        for name, values in compared.items():
            size = len(values)
            if scope is Scope.LOCAL:
                wanted = round(size * (1 - t))
            else:
                below = round(t * len(pooled))
                wanted = size if below == 0 else int((values > pooled[below - 1]).sum())
            gone[name] = np.sort(order[name][: size - widths.get(name, _ANY).round(wanted, size)])
        return gone

    low, high = 0.0, 1.0
    if share(cost, removed_at(0.0)) <= keep + 1e-12:
        high = 0.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if share(cost, removed_at(middle)) <= keep + 1e-12 else (middle, high)
    removed = removed_at(high)
    return Selection({name: units for name, units in removed.items() if len(units)}, share(cost, removed))


def share(cost: Cost, removed: Mapping[str, Units]) -> float:
    """Give the share of the cost that remains once units are gone; 1 where nothing costs anything."""
    whole = cost({})
    return cost(removed) / whole if whole else 1.0
