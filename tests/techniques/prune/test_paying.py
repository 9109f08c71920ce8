"""Widths that pay: nothing wider is as fast."""

import numpy as np
import pytest
import torch
from torch import nn

from penjing.structure import couple
from penjing.techniques.prune.paying import paying, widths_that_pay
from penjing.techniques.prune.select import Widths


def test_a_staircase_leaves_its_edges() -> None:
    stairs = {width: float(-(-width // 8)) for width in range(1, 33)}
    assert paying(stairs) == (8, 16, 24, 32)


def test_a_line_leaves_every_width() -> None:
    assert paying({width: float(width) for width in range(1, 9)}) == tuple(range(1, 9))


def test_less_than_a_hundredth_is_no_gain() -> None:
    assert paying({7: 0.995, 8: 1.0}) == (8,)


def test_groups_are_looked_at_one_by_one_and_keep_their_least_width() -> None:
    model = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 2))
    coupling = couple(model, torch.zeros(2, 3))

    def latency(removed: dict[str, np.ndarray]) -> float:
        widths = {group.name: group.size - len(removed.get(group.name, ())) for group in coupling.groups}
        return sum(-(-width // 8) for width in widths.values())

    groups = [group for group in coupling.groups if group.prunable]
    found = widths_that_pay(groups, latency, {group.name: Widths(1, 12) for group in groups})
    assert {name: widths.only for name, widths in found.items()} == {"0": (16, 24, 32), "2": (16,)}
    assert found["0"].round(21, 32) == 24


@pytest.mark.parametrize(("wanted", "kept"), [(1, 8), (11, 8), (12, 16), (40, 64)])
def test_rounding_takes_the_nearest_that_pays_and_the_wider_of_two(wanted: int, kept: int) -> None:
    assert Widths(only=(8, 16)).round(wanted, 64) == kept
