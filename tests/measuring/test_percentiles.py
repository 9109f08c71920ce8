"""The far percentiles: told where there are calls enough, absent from older records."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from penjing.measuring import fresh
from penjing.measuring.latency import Latency, summarize
from penjing.measuring.statistics import Floats
from penjing.measuring.timing import Timings


def latency_of(calls: Floats) -> Latency:
    timings = Timings(calls, calls.mean(axis=1))
    return summarize([timings], batch=1, threads=1, pinned=True, runtime="fake", single_threaded=True)


def test_p99_is_the_quantile_of_calls() -> None:
    assert latency_of(np.arange(1.0, 201.0).reshape(20, 10)).p99_ms == np.quantile(np.arange(1.0, 201.0), 0.99)


def test_few_calls_do_not_tell_p99() -> None:
    assert latency_of(np.ones((9, 11))).p99_ms is None


def test_a_record_without_p99_is_read() -> None:
    data = latency_of(np.ones((20, 10))).to_data()
    del data["p99_ms"]
    assert Latency.from_data(data).p99_ms is None


@pytest.mark.parametrize(("tails", "joined"), [((3.0, 5.0), 5.0), ((3.0, None), None)])
def test_the_worst_p99_of_several_processes_is_theirs(
    tails: tuple[float | None, ...], joined: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = iter(replace(latency_of(np.ones((20, 10))), p99_ms=tail).to_data() for tail in tails)
    monkeypatch.setattr(fresh, "run_child", lambda *_: next(each))
    artifact: Any = None  # goes to the child only
    assert fresh.measure_fresh(artifact, None, processes=2).p99_ms == joined
