"""The protocol, on a clock that is ours: order, block lengths, warm-up, and what is restored."""

import gc
import os
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from penjing.measuring import timing
from penjing.measuring.timing import time_blocks, undisturbed, warm_up


class Clock:
    """A clock that only calls move forward."""

    def __init__(self) -> None:
        self.now = 0
        self.order: list[str] = []

    def __call__(self) -> int:
        return self.now

    def call(self, name: str, durations_ms: Iterator[float]) -> Callable[[], None]:
        def run() -> None:
            self.order.append(name)
            self.now += int(next(durations_ms) * 1e6)

        return run


def always(value: float) -> Iterator[float]:
    while True:
        yield value


def test_a_steady_call_is_timed_exactly() -> None:
    clock = Clock()
    (found,) = time_blocks([clock.call("a", always(0.5))], 1.0, clock, clock)
    assert found.wall_ms.shape == (200, 10)  # 5 ms a block, one second
    np.testing.assert_allclose(found.wall_ms, 0.5)
    np.testing.assert_allclose(found.cpu_ms, 0.5)
    assert found.running == pytest.approx(1.0)


def test_two_candidates_alternate_and_get_equal_shares() -> None:
    clock = Clock()
    slow, fast = clock.call("S", always(5.0)), clock.call("f", always(2.5))
    found = time_blocks([slow, fast], 0.5, clock, clock)
    assert len(found[0].wall_ms) == len(found[1].wall_ms)
    assert found[1].wall_ms.shape[1] == 2
    # An untimed call opens each block: S S, f f f, f f f, S S, S S, f f f, ...
    assert "ffffffSSSSffffff" in "".join(clock.order)


def test_slow_calls_still_give_enough_blocks() -> None:
    clock = Clock()
    (found,) = time_blocks([clock.call("a", always(900.0))], 1.0, clock, clock)
    assert found.wall_ms.shape == (timing.MIN_BLOCKS, 1)


def test_waiting_for_a_core_is_seen() -> None:
    clock, thread = Clock(), Clock()

    def call() -> None:
        clock.now += 4_000_000
        thread.now += 1_000_000

    (found,) = time_blocks([call], 0.5, clock, thread)
    assert found.running == pytest.approx(0.25)
    np.testing.assert_allclose(found.cpu_ms, 1.0)


def test_warm_up_lasts_until_it_gets_no_faster() -> None:
    clock = Clock()

    def cooling() -> Iterator[float]:
        yield 500.0
        value = 8.0
        while True:
            yield value
            value = max(1.0, value * 0.9)

    assert warm_up(clock.call("a", cooling()), 10.0, clock) == pytest.approx(1e6, rel=0.03)
    assert clock.now < 1e9


def test_warm_up_ends_even_if_it_always_gets_faster() -> None:
    clock = Clock()

    def shrinking() -> Iterator[float]:
        value = 100.0
        while True:
            yield value
            value *= 0.95

    warm_up(clock.call("a", shrinking()), 0.5, clock)
    assert clock.now < 1e9


def test_cores_and_garbage_collector_are_restored() -> None:
    allowed = os.sched_getaffinity(0)

    def fail() -> None:
        with undisturbed(1) as pinned:
            assert pinned
            assert len(os.sched_getaffinity(0)) == 1
            assert not gc.isenabled()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert os.sched_getaffinity(0) == allowed
    assert gc.isenabled()


def test_more_threads_than_cores_are_not_pinned() -> None:
    allowed = os.sched_getaffinity(0)
    with undisturbed(len(allowed) + 1) as pinned:
        assert not pinned
        assert os.sched_getaffinity(0) == allowed


def test_idle_cores_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([{0: 0, 1: 0, 2: 0}, {0: 3, 1: 20, 2: 3}])
    monkeypatch.setattr(timing, "_idle_ticks", lambda: next(readings))
    assert timing.idlest({0, 1, 2}, 0.001) == [1, 2, 0]
