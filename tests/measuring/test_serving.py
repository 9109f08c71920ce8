"""Load that does not wait: what a percentile counts, and when a server is overloaded. Real requests once."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from penjing.errors import RunError
from penjing.measuring.serving import ServedLatency, arrivals, backlog_grows, serve, summarize
from penjing.measuring.statistics import Floats
from penjing.runtimes import Artifact, export


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export(nn.Linear(64, 8), torch.randn(4, 64), tmp_path_factory.mktemp("serve") / "artifact")


def figures(due: Floats, answered: Floats, ran: Floats, **changes: Any) -> ServedLatency:
    terms: dict[str, Any] = {"rate": 100.0, "seconds": 10.0, "timeout_s": 2.0, "batch": 1, "threads": 1, "runtime": "r"}
    sent = np.where(np.isnan(answered), due, np.maximum(due, answered - 1e-3))  # as a client would that waits
    return summarize(due, sent, answered, ran, **{**terms, **changes})


def queued(due: Floats, service: Floats) -> Floats:
    """When a single server answers, first come first served (Lindley's recursion)."""
    ends, free = np.empty(len(due)), 0.0
    for i, (moment, takes) in enumerate(zip(due, service, strict=True)):
        free = ends[i] = max(moment, free) + takes
    return ends


def test_arrivals_are_poisson_and_repeat() -> None:
    due = arrivals(200.0, 50.0, seed=3)
    gaps = np.diff(due)
    assert gaps.mean() == pytest.approx(1 / 200, rel=0.05)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # exponential
    np.testing.assert_array_equal(due, arrivals(200.0, 50.0, seed=3))
    assert not np.array_equal(due[:100], arrivals(200.0, 50.0, seed=4)[:100])


def test_a_stall_is_charged_to_all_that_waited() -> None:
    due = np.arange(0.0, 10.0, 0.01)
    service = np.full(1000, 0.001)
    service[500] = 1.0
    found = figures(due, queued(due, service), service)
    assert found.p50_ms == pytest.approx(1.0)
    # A client that waits for answers would send one slow request of 1,000: its p95 would be 1 ms.
    assert found.p95_ms is not None
    assert found.p95_ms > 500
    assert found.utilisation == pytest.approx(0.2, abs=0.001)
    assert not found.overloaded


def test_half_a_queue_of_a_known_length() -> None:
    due = arrivals(100.0, 400.0, seed=0)
    service = np.full(len(due), 0.008)
    latency = queued(due, service) - due
    assert latency.mean() == pytest.approx(0.008 + 0.8 * 0.008 / (2 * 0.2), rel=0.1)  # M/D/1, Pollaczek-Khinchine
    assert not backlog_grows(due, due + latency, 400.0)


@pytest.mark.parametrize(("service", "overloaded"), [(0.005, False), (0.009, False), (0.012, True)])
def test_overload_is_a_backlog_that_grows(service: float, overloaded: bool) -> None:
    for seed in range(20):
        due = arrivals(100.0, 10.0, seed)
        assert backlog_grows(due, queued(due, np.full(len(due), service)), 10.0) is overloaded


def test_requests_without_an_answer_are_endless() -> None:
    due = np.linspace(0.0, 9.9, 200)
    answered, ran = due + 0.01, np.full(200, 0.005)
    answered[:10] = np.nan
    ran[10:15] = 0.0
    found = figures(due, answered, ran)
    assert (found.timed_out, found.dropped, found.overloaded) == (10, 5, True)
    assert found.p50_ms == pytest.approx(10)
    assert (found.p95_ms, found.p99_ms) == (None, None)
    assert "p95 -" in str(found)
    assert "5 dropped, 10 timed out, overloaded" in str(found)
    assert ServedLatency.from_data(json.loads(json.dumps(found.to_data(), allow_nan=False))) == found


def test_requests_over_loopback(artifact: Artifact) -> None:
    found = serve(artifact, torch.randn(4, 64), rate=100.0, seconds=1.0, seed=1)
    assert found.requests == len(arrivals(100.0, 1.0, 1))
    assert (found.dropped, found.timed_out, found.batch, found.threads) == (0, 0, 4, 1)
    assert found.p50_ms is not None
    assert found.p95_ms is not None
    assert 0 < found.p50_ms <= found.p95_ms
    assert 0 < found.utilisation < 1


def test_bad_loads_are_refused(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="rate=0"):
        serve(artifact, torch.randn(4, 64), rate=0.0)
    with pytest.raises(ValueError, match="not one request is due"):
        serve(artifact, torch.randn(4, 64), rate=0.01, seconds=0.01)
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(RunError, match="exit code 1"):
        serve(artifact, torch.randn(4, 64), rate=10.0)
