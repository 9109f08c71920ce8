"""The clock's side of measuring: warm up, then interleaved blocks of calls, each call timed.

Two candidates are timed in the order A B, B A, A B, ...: what drifts hits both, and within a pair cancels.
"""

import gc
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Clock = Callable[[], int]  # nanoseconds
BLOCK_NS = 5_000_000
MIN_BLOCKS = 8
_MAX_CALLS = 10_000


@dataclass(frozen=True)
class Timings:
    """Times of the calls of one candidate.

    wall_ms: each call, [blocks, calls per block]. cpu_ms: the mean call of each block, counting only what the calling
    thread was running, [blocks]: it leaves out the waiting for a core (and, with several threads, for the others).
    session: which session of the file each block was timed in, [blocks]; None: one session.
    """

    wall_ms: NDArray[np.float64]
    cpu_ms: NDArray[np.float64]
    session: NDArray[np.int64] | None = None

    @property
    def running(self) -> float:
        """Share of the time in which the calling thread was running."""
        return float(self.cpu_ms.mean() / self.wall_ms.mean())

    @staticmethod
    def join(sessions: Sequence["Timings"]) -> "Timings":
        """Put the blocks of several sessions in one, each with the number of its session."""
        return Timings(
            np.concatenate([each.wall_ms for each in sessions]),
            np.concatenate([each.cpu_ms for each in sessions]),
            np.repeat(np.arange(len(sessions)), [len(each.cpu_ms) for each in sessions]),
        )


def time_blocks(
    calls: Sequence[Callable[[], object]],
    seconds: float,
    clock: Clock = time.perf_counter_ns,
    thread_clock: Clock = time.thread_time_ns,
    *,
    least: int = MIN_BLOCKS,
    per_block: Sequence[int] | None = None,
) -> list[Timings]:
    """Time each candidate for about `seconds`, warm-up not counted.

    A block lasts at least 5 ms, or has the calls that `per_block` says. Every candidate gets as many blocks as every
    other, at least `least` however long they take.
    """
    warm = [warm_up(call, seconds / 4, clock) for call in calls]
    per_block = per_block or _counts(warm)
    wall: list[list[NDArray[np.float64]]] = [[] for _ in calls]
    cpu: list[list[float]] = [[] for _ in calls]
    end = clock() + seconds * len(calls) * 1e9
    order = range(len(calls))
    while len(wall[0]) < least or clock() < end:
        for i in order:
            if len(calls) > 1:
                calls[i]()  # the caches still hold the other candidate's weights
            start = thread_clock()
            wall[i].append(_block(calls[i], per_block[i], clock))
            cpu[i].append((thread_clock() - start) / 1e6 / per_block[i])
        order = range(len(calls))[::-1] if order.step > 0 else range(len(calls))
    return [Timings(np.stack(each), np.array(busy)) for each, busy in zip(wall, cpu, strict=True)]


def _counts(call_ns: Sequence[float]) -> list[int]:
    """Calls in a block. Candidates of nearly the same speed get the same: what a change of turns costs is then alike.

    >>> _counts([1e6, 1.1e6]), _counts([1e6, 3e6])
    ([5, 5], [5, 2])
    """
    counts = [max(1, min(_MAX_CALLS, math.ceil(BLOCK_NS / each))) for each in call_ns]
    return [max(counts)] * len(counts) if max(call_ns) < 1.25 * min(call_ns) else counts


def warm_up(call: Callable[[], object], seconds: float, clock: Clock = time.perf_counter_ns) -> float:
    """Call until it gets no faster (or `seconds` have passed) and give the time of a call in nanoseconds.

    Windows of at least 10 ms; stable when two windows in a row bring less than 2 %.
    """
    end = clock() + seconds * 1e9
    call()  # the first call allocates
    best, stable = math.inf, 0
    while stable < 2:
        window = _window(call, 10_000_000, clock)
        stable = stable + 1 if window > 0.98 * best else 0
        best = min(best, window)
        if clock() >= end:
            break
    return max(best, 1.0)


def _window(call: Callable[[], object], least_ns: int, clock: Clock) -> float:
    start = clock()
    count = 0
    while (elapsed := clock() - start) < least_ns:
        call()
        count += 1
    return elapsed / count


def _block(call: Callable[[], object], count: int, clock: Clock) -> NDArray[np.float64]:
    times = np.empty(count)
    for i in range(count):
        start = clock()
        call()
        times[i] = clock() - start
    return times / 1e6


@contextmanager
def undisturbed(threads: int) -> Iterator[bool]:
    """Pin this thread, and those it starts, to `threads` cores, and stop the garbage collector; both are restored.

    Yields whether pinning was possible: it is not on systems without it, nor with fewer cores than threads.
    """
    allowed: set[int] = getattr(os, "sched_getaffinity", lambda _: set())(0)
    can_pin = len(allowed) >= threads
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        if can_pin:  # to cores that nobody else is using, if there are any
            os.sched_setaffinity(0, idlest(allowed)[:threads])
        yield can_pin
    finally:
        if can_pin:
            os.sched_setaffinity(0, allowed)
        if collecting:
            gc.enable()


def idlest(cores: set[int], seconds: float = 0.2) -> list[int]:
    """Order cores by how idle they are over a moment, the idlest first; later ones first where this cannot be seen.

    >>> idlest({3, 1}, 0.0)
    [3, 1]
    """
    before = _idle_ticks()
    time.sleep(seconds)
    after = _idle_ticks()
    idle = {core: after.get(core, 0) - before.get(core, 0) for core in cores} if seconds else {}
    return sorted(cores, key=lambda core: (idle.get(core, 0), core), reverse=True)


def _idle_ticks() -> dict[int, int]:
    """Read the idle time of each core, in ticks of 10 ms; empty on systems without /proc/stat."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return {}
    rows = [line.split() for line in stat.read_text().splitlines()]
    return {int(row[0][3:]): int(row[4]) for row in rows if re.fullmatch(r"cpu\d+", row[0])}


def bind(run: Callable[[Any], object], feeds: Any) -> Callable[[], object]:
    """Make a call without arguments of a session's bare call."""
    return lambda: run(feeds)
