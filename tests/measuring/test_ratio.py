"""A ratio says itself when it cannot be relied on."""

import numpy as np
import pytest

from penjing.measuring import Ratio
from penjing.measuring.latency import summarize
from penjing.measuring.statistics import ratio_interval
from penjing.measuring.timing import Timings


@pytest.mark.parametrize(("half", "noisy"), [(0.019, False), (0.021, True)])
@pytest.mark.parametrize("value", [0.5, 1.0, 4.0])
def test_two_percent_of_the_value_decide(value: float, half: float, noisy: bool) -> None:
    ratio = Ratio(value, value * (1 - half), value * (1 + half))
    assert ratio.noisy is noisy
    assert (ratio.noise is None) is not noisy


def test_a_noisy_ratio_prints_no_value() -> None:
    assert str(Ratio(1.237, 1.1, 1.4)) == "noisy, somewhere from 1.10x to 1.40x"
    assert "12.1 % of the ratio to either side, more than 2 %" in str(Ratio(1.237, 1.1, 1.4).noise)


def test_a_noisy_ratio_is_told_beside_a_quiet_median() -> None:
    rng = np.random.default_rng(0)
    ours = np.ones((40, 5)) + 0.001 * rng.random((40, 5))
    theirs = ours * rng.choice([1.0, 1.5], (40, 1))
    timings = [Timings(each, each.mean(axis=1)) for each in (ours, theirs)]
    found = summarize(timings, batch=1, threads=1, pinned=True, runtime="r", single_threaded=True)
    assert not found.noisy
    assert found.ratio is not None
    assert found.ratio.noisy
    assert str(found).endswith("; ratio noisy, somewhere from 1.00x to 1.50x")


def test_sessions_that_differ_widen_the_interval() -> None:
    """A second session of the same file is one percent slower or faster, for as long as it lives."""
    rng = np.random.default_rng(0)
    session = np.repeat(np.arange(6), 30)
    held, alone = 0, 0
    for _ in range(400):
        own = np.exp(0.01 * rng.standard_normal(6))
        above, below = (rng.lognormal(0, 0.01, 180) for _ in range(2))
        _, interval = ratio_interval(own[session] * above, below, session=session)
        held += interval.low <= 1.0 <= interval.high
        _, interval = ratio_interval(own[0] * above, below)
        alone += interval.low <= 1.0 <= interval.high
    assert held >= 360
    assert alone < 200, "one pair of sessions cannot tell its own speed from the file's"


def test_joined_sessions_keep_their_number() -> None:
    made = Timings.join([Timings(np.full((n, 2), float(n)), np.full(n, float(n))) for n in (1, 2)])
    assert made.session is not None
    assert made.session.tolist() == [0, 1, 1]
    assert made.cpu_ms.tolist() == [1.0, 2.0, 2.0]
    assert made.wall_ms.shape == (3, 2)
