"""Which widths pay: those that no wider one matches in latency."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from penjing.structure import Group
from penjing.techniques.prune.select import Units, Widths

_MARGIN = 0.01  # of the latency: less is not a gain that anybody could measure
_LOOKS = 96  # widths of a group that are looked at; those of a wider one are thinned out evenly


def paying(latencies: Mapping[int, float]) -> tuple[int, ...]:
    """Give the widths that are faster than every wider one, ascending; latencies are by width.

    >>> paying({4: 1.0, 5: 1.9, 6: 1.8, 7: 1.9, 8: 1.5, 9: 2.5, 16: 2.0})
    (4, 8, 16)
    """
    found: list[int] = []
    best = float("inf")
    for width in sorted(latencies, reverse=True):
        if latencies[width] < best * (1 - _MARGIN):
            found.append(width)
            best = latencies[width]
    return tuple(reversed(found))


def widths_that_pay(
    groups: Sequence[Group], latency: Callable[[Mapping[str, Units]], float], widths: Mapping[str, Widths]
) -> dict[str, Widths]:
    """Narrow the widths that each group may have, in units, down to those that pay while the others stay whole."""
    found = {}
    for group in groups:
        limits = widths[group.name]
        count = min(group.size, _LOOKS)
        sizes = {round(i * group.size / count) for i in range(1, count + 1)}
        times = {kept: latency({group.name: np.arange(kept, group.size)}) for kept in sizes if kept >= limits.least}
        found[group.name] = replace(limits, only=paying(times))
    return found
