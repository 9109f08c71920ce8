"""Two deployed files in turns: the ratio of their times, and how far it can be trusted."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from penjing.measuring.statistics import noise, ratio_interval
from penjing.measuring.timing import MIN_BLOCKS, Timings, bind, time_blocks, undisturbed
from penjing.runtimes import Artifact
from penjing.types import Interval
from penjing.workload import ExampleInputs

CONFIDENCE = 0.95
NOISY_RATIO = 0.02
"""Half an interval wider than this share of the ratio is called noisy."""
SESSIONS = 6
"""How often a pair is loaded anew; an even number, for the order of loading alternates."""

Setting = tuple[Artifact, ExampleInputs]


@dataclass(frozen=True)
class Ratio:
    """How many times faster than another: time of the other / time of this one, paired, with its 95 % interval.

    Where both run on one thread, only the time in which it was running counts, so that other work on the machine, which
    may hit one of a pair alone, does not. Where half the interval is more than 2 % of the value, the ratio is noisy: it
    is then written as its interval alone.

    >>> print(Ratio(1.5, 1.49, 1.51)), print(Ratio(1.5, 1.2, 1.9))
    1.50x [1.49, 1.51]
    noisy, somewhere from 1.20x to 1.90x
    (None, None)
    """

    value: float
    low: float
    high: float

    @property
    def noise(self) -> str | None:
        """Why the value should not be relied on; None where it may be."""
        return noise(self.value, Interval(self.low, self.high, CONFIDENCE), NOISY_RATIO, of="ratio")

    @property
    def noisy(self) -> bool:
        """Whether half the interval is more than 2 % of the value."""
        return self.noise is not None

    def __str__(self) -> str:
        if self.noisy:
            return f"noisy, somewhere from {self.low:.2f}x to {self.high:.2f}x"
        return f"{self.value:.2f}x [{self.low:.2f}, {self.high:.2f}]"


def paired_ratio(first: Setting, second: Setting, seconds: float) -> Ratio:
    """Time two settings in turns, for about `seconds` each, on as many cores as the larger has threads."""
    threads = max(threads_of(artifact) for artifact, _ in (first, second))
    with undisturbed(threads):
        ours, theirs = time_pair(first, second, seconds)
    return ratio_of(ours, theirs, single_threaded=threads == 1)


def quick_ratio(first: Setting, second: Setting, seconds: float) -> Ratio:
    """The same with each loaded once: for many figures at a time, of which each may be off by what sessions differ."""
    threads = max(threads_of(artifact) for artifact, _ in (first, second))
    with undisturbed(threads):
        ours, theirs = time_blocks([session_call(*first), session_call(*second)], seconds)
    return ratio_of(ours, theirs, single_threaded=threads == 1)


def time_pair(first: Setting, second: Setting, seconds: float) -> list[Timings]:
    """Time two settings in turns, in pairs of sessions of which each is loaded, warmed and timed first in every other.

    What being first costs is thereby shared, and widens the interval instead of bending the ratio.
    """
    sessions: list[list[Timings]] = []
    counts: list[int] | None = None
    for i in range(SESSIONS):
        turn = slice(None, None, 1 if i % 2 == 0 else -1)
        calls = [session_call(artifact, example) for artifact, example in [first, second][turn]]
        least = math.ceil(MIN_BLOCKS / SESSIONS)
        timings = time_blocks(calls, seconds / SESSIONS, least=least, per_block=counts and counts[turn])[turn]
        sessions.append(timings)
        counts = counts or [each.wall_ms.shape[1] for each in timings]
    return [Timings.join(each) for each in zip(*sessions, strict=True)]


def ratio_of(ours: Timings, theirs: Timings, *, single_threaded: bool) -> Ratio:
    """Give theirs / ours: of running times on one thread, else of the medians of blocks."""
    above, below = (each.cpu_ms if single_threaded else np.median(each.wall_ms, axis=1) for each in (theirs, ours))
    value, bounds = ratio_interval(above, below, CONFIDENCE, session=ours.session)
    return Ratio(value, bounds.low, bounds.high)


def session_call(artifact: Artifact, example: ExampleInputs) -> Callable[[], object]:
    """Open a session and bind it to the example's arrays."""
    session = artifact.load()
    return bind(session.run, session.feeds(*example.args, **example.kwargs))


def threads_of(artifact: Artifact) -> int:
    """Threads that the manifest gives the model."""
    return int(artifact.options.get("threads", 1))
