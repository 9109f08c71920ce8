"""Random narrower versions of a model: what a latency model is fitted to."""

from collections.abc import Iterator
from itertools import count

import numpy as np

from penjing.structure import Coupling
from penjing.techniques.prune.select import Units

_STEPS = (1, 4, 8, 16)  # widths are multiples of one of these: kernels like round ones better


def variants(coupling: Coupling, seed: int = 0) -> Iterator[dict[str, Units]]:
    """Draw units to remove, by group, without end: a variant keeps between a lower bound of its own and all.

    In every other variant all widths are multiples of the same number, in the rest each group has its own.

    >>> from torch import nn, zeros
    >>> from penjing.structure import couple
    >>> coupling = couple(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), zeros(2, 3))
    >>> [len(next(variants(coupling, seed))["0"]) for seed in (1, 2)]
    [1, 1]
    """
    rng = np.random.default_rng(seed)
    groups = [group for group in coupling.groups if group.prunable and group.size > 1]
    for turn in count():
        least, shared = rng.uniform(0.1, 0.9), int(rng.choice(_STEPS))
        removed = {}
        for group in groups:
            step = shared if turn % 2 == 0 else int(rng.choice(_STEPS))
            wanted = round(group.size * rng.uniform(least, 1.0) / step) * step or step
            kept = max(1, min(group.size, wanted))
            if kept < group.size:
                removed[group.name] = np.sort(rng.permutation(group.size)[kept:])
        if removed:
            yield removed
