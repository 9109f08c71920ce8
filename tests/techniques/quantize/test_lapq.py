"""Ranges that are searched together."""

from collections.abc import Mapping

import torch

from penjing.techniques.quantize.lapq import joint_ranges, lp_range
from penjing.techniques.quantize.observers import Histogram


def histogram() -> Histogram:
    x = torch.cat([torch.randn(10_000, generator=torch.Generator().manual_seed(0)), torch.tensor([-40.0, 40.0])])
    return Histogram(torch.histc(x, 2048, -40.0, 40.0), -40.0, 40.0)


def test_a_larger_power_clips_less() -> None:
    reach = [lp_range(histogram(), p)[1] for p in (1.0, 2.0, 4.0, 8.0)]
    assert reach == sorted(reach)
    assert reach[0] < reach[-1]


def test_the_search_finds_ranges_that_depend_on_each_other() -> None:
    """The outputs are best where the two ranges are alike and near 10: neither can be found alone."""

    def decibel(ranges: Mapping[str, tuple[float, float]]) -> float:
        a, b = (high for _, high in ranges.values())
        return -((a - b) ** 2) - (a - 10) ** 2

    start = {"a": histogram(), "b": Histogram(torch.ones(2048), -5.0, 5.0)}
    found = joint_ranges(start, decibel)
    curve = max(decibel({name: lp_range(each, p) for name, each in start.items()}) for p in (2.0, 2.5, 3.0, 4.0))
    assert decibel(found) > curve
