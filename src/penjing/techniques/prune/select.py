"""Which units go: the lowest, until what remains costs little enough.

Units of all groups are laid on one line: by their score (global), or by their rank within their group (local), so that
every group loses the same share. A cut at any place of the line, with the widths then rounded to allowed ones, is a
selection; along the line widths fall in steps and never rise, and the gentlest selection within the budget is taken.
What a large last step leaves unspent of the budget is given back to the best of what went.
The cost is passed in. Where it is known to fall with the widths (channels, parameters, MACs), bisection finds the
place; a latency may rise where a width leaves the kernels' blocks, so there every selection is looked at in turn.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penjing.types import Scope

Units = NDArray[np.int64]
Cost = Callable[[Mapping[str, Units]], float]

_UNSPENT = 0.005  # a share of the cost that is worth giving back
_LOOKS = 512  # selections whose cost is asked for one by one; a longer line is thinned out evenly


@dataclass(frozen=True)
class Widths:
    """What widths are allowed: multiples of `multiple`, at least `least` (or the whole group, if it is smaller).

    only: the widths that are allowed, ascending, in place of all multiples; None where every one is.
    """

    multiple: int = 1
    least: int = 1
    only: tuple[int, ...] | None = None

    def in_units(self, block: int) -> "Widths":
        """Give the same limits counted in units of `block` channels each.

        >>> Widths(multiple=8, least=20).in_units(4), Widths(multiple=8).in_units(32)
        (Widths(multiple=2, least=5, only=None), Widths(multiple=1, least=1, only=None))
        """
        return Widths(self.multiple // math.gcd(self.multiple, block), -(-self.least // block))

    def round(self, wanted: int, size: int) -> int:
        """Give the allowed width nearest to the wanted one; a group may always stay whole.

        >>> Widths(multiple=8).round(11, 16), Widths(multiple=8).round(13, 16), Widths(multiple=8).round(2, 20)
        (8, 16, 8)
        >>> Widths(only=(4, 12)).round(7, 16), Widths(only=(4, 12)).round(15, 16)
        (4, 16)
        """
        if self.only is not None:
            allowed = [width for width in self.only if self.least <= width < size] + [size]
            return min(allowed, key=lambda width: (abs(width - wanted), -width))
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
    monotone: bool = True,
) -> Selection:
    """Choose the units to remove so that at most `keep` of the cost remains, or as little as the widths allow.

    scores: [size] per group, higher is more important, comparable between groups under the global scope. widths: what
    is allowed in a group, in units; any width where a group is not named. monotone: whether the cost never rises as
    units go.

    >>> s = select({"a": np.array([1.0, 4.0, 3.0, 2.0])}, 0.5, lambda removed: 4 - sum(map(len, removed.values())))
    >>> s.removed["a"].tolist(), s.remaining
    ([0, 3], 0.5)
    """
    if not scores:
        return Selection({}, 1.0)
    sizes = _steps(scores, scope, widths or {})
    order = {name: np.argsort(values, kind="stable") for name, values in scores.items()}

    def removed_at(step: int) -> dict[str, Units]:
        kept = {name: int(sizes[name][step]) for name in scores}
        return {
            name: np.sort(order[name][: len(values) - kept[name]])
            for name, values in scores.items()
            if kept[name] < len(values)
        }

    whole = cost({})

    def remaining(removed: Mapping[str, Units]) -> float:
        return cost(removed) / whole if whole else 1.0

    count = len(next(iter(sizes.values())))
    step = (_bisect if monotone else _scan)(lambda step: remaining(removed_at(step)), count, keep + 1e-12)
    found = Selection(removed_at(step), remaining(removed_at(step)))
    if scope is Scope.LOCAL or keep - found.remaining < _UNSPENT:
        return found
    return _given_back(found, scores, {name: np.unique(row) for name, row in sizes.items()}, keep, remaining)


def _given_back(
    found: Selection,
    scores: Mapping[str, NDArray[np.float64]],
    allowed: Mapping[str, NDArray[np.int64]],
    keep: float,
    remaining: Cost,
) -> Selection:
    """Widen groups again, the best units first, while the budget allows it: a single step can have cost far too much.

    allowed: the widths that each group may have, ascending. Units come back by their mean score, up to the next width.
    """
    while True:
        offers = []
        for name, units in found.removed.items():
            kept = len(scores[name]) - len(units)
            wider = allowed[name][np.searchsorted(allowed[name], kept, side="right")]
            best = units[np.argsort(scores[name][units], kind="stable")]
            back, still = best[len(scores[name]) - wider :], best[: len(scores[name]) - wider]
            offers.append((float(scores[name][back].mean()), name, np.sort(still)))
        for _, name, still in sorted(offers, key=lambda offer: offer[0], reverse=True):
            removed = {other: units for other, units in found.removed.items() if other != name}
            removed |= {name: still} if len(still) else {}
            left = remaining(removed)
            if found.remaining < left <= keep:
                found = Selection(removed, left)
                break
        else:
            return found


def share(cost: Cost, removed: Mapping[str, Units]) -> float:
    """Give the share of the cost that remains once units are gone; 1 where nothing costs anything."""
    whole = cost({})
    return cost(removed) / whole if whole else 1.0


def _steps(
    scores: Mapping[str, NDArray[np.float64]], scope: Scope, widths: Mapping[str, Widths]
) -> dict[str, NDArray[np.int64]]:
    """Give the width of every group at each step along the line, [steps]; the first step removes nothing."""
    ranks = {name: _ranks(values) for name, values in scores.items()}
    places: Mapping[str, NDArray[Any]] = ranks if scope is Scope.LOCAL else _places(scores, ranks)
    line = np.unique(np.concatenate(list(places.values())))
    sizes = {}
    for name, values in places.items():
        above = len(values) - np.searchsorted(np.sort(values), line, side="right")
        allowed = np.array([widths.get(name, _ANY).round(wanted, len(values)) for wanted in range(len(values) + 1)])
        sizes[name] = np.concatenate([[len(values)], allowed[above]])
    table = np.stack(list(sizes.values()))
    new = np.concatenate([[True], (np.diff(table) != 0).any(axis=0)])
    return {name: np.asarray(row[new], dtype=np.int64) for name, row in sizes.items()}


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where each value stands among its own: the share of the group below the middle of its place."""
    ranks = np.empty(len(values))
    ranks[np.argsort(values, kind="stable")] = (np.arange(len(values)) + 0.5) / len(values)
    return ranks


def _places(
    scores: Mapping[str, NDArray[np.float64]], ranks: Mapping[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.int64]]:
    """Where each value stands among those of all groups; equal ones by their rank, so that no tie goes at once."""
    order = np.lexsort((np.concatenate(list(ranks.values())), np.concatenate(list(scores.values()))))
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order))
    ends = np.cumsum([len(values) for values in scores.values()])
    return dict(zip(scores, np.split(places, ends[:-1]), strict=True))


def _bisect(remaining: Callable[[int], float], count: int, keep: float) -> int:
    """Find the first step within the budget, the last one where none is; the cost never rises from step to step."""
    low, high = -1, count - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if remaining(middle) <= keep else (middle, high)
    return high


def _scan(remaining: Callable[[int], float], count: int, keep: float) -> int:
    """Find the first step within the budget, whatever the cost does between; the cheapest step where none is."""
    looked: list[tuple[float, int]] = []
    for step in _thinned(count):
        looked.append((remaining(step), step))
        if looked[-1][0] <= keep:
            return step
    return min(looked)[1]


def _thinned(count: int) -> Sequence[int]:
    if count <= _LOOKS:
        return range(count)
    return sorted({round(i * (count - 1) / (_LOOKS - 1)) for i in range(_LOOKS)})
