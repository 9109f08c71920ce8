"""Journals written by hand become reports. Every figure below is invented: nothing here was measured."""

from dataclasses import asdict
from typing import Any

import pytest

from penjing.errors import RunError
from penjing.recipe import Finetune, PruneChannels, Quantize, Recipe
from penjing.reporting import Pricing, ReportData, Role, Unit, compose
from penjing.reporting.html import render_html
from penjing.reporting.markdown import render_markdown
from penjing.reporting.words import verdict_words
from penjing.types import Decision, Interval, Status
from penjing.verdict import LimitResult, Verdict, power

Event = dict[str, Any]
MACHINES = "machines for 5000 samples/s"
CUT = Recipe([PruneChannels(0.5, of="macs", round_to=8), Finetune(), Quantize()])


def latency(ms: float, ratio: float | None = None, noise: str | None = None) -> Event:
    return {
        "median_ms": ms,
        "low_ms": 0.99 * ms,
        "high_ms": 1.01 * ms,
        "p95_ms": 1.1 * ms,
        "threads": 1,
        "noise": noise,
        "ratio": None if ratio is None else {"value": ratio, "low": 0.9 * ratio, "high": 1.1 * ratio},
    }


def layer(name: str, width: int, stored: str = "fp32") -> Event:
    return {"name": name, "type": "Conv2d", "width": width, "params": 9 * width, "macs": 900 * width, "format": stored}


def baseline(**changes: Any) -> Event:
    return {
        "event": "baseline",
        "time": 1.0,
        "hash": "baseline",
        "title": "invented",
        "value": 0.95,
        "n": 300,
        "batch": 8,
        "latency_ms": 4.0,
        "latencies": {"1": latency(1.0), "8": latency(4.0)},
        "size_bytes": 40_000,
        "memory_bytes": 90_000,
        "macs": 36_000,
        "params": 360,
        "layers": [layer("conv1", 16), layer("conv2", 24)],
        "frozen": [["fc.weight, dimension 0", "the output of the model"]],
        "power": {"n": 700, "discordance": 0.05, "smallest_drop": 0.021, "probability": 0.8},
        "runtime": "onnxruntime",
        "metric": {"name": "accuracy", "direction": "higher", "low": 0.0, "high": 1.0},
        "contract": {
            "describe": "accuracy may drop by at most 2 points",
            "objective": "latency_ms",
            "max_drop": 0.02,
            "relative": False,
            "alpha": 0.05,
            "max_latency_ms": None,
        },
        "machine": {"processor": "an invented one", "cores": 2},
        "versions": {"penjing": "0"},
        "hashes": {"model": "ab"},
        "commands": {"go on": "penjing resume run"},
        **changes,
    }


def candidate(name: str = "c0ffee", ms: float = 2.0, drop: float = 0.01, **changes: Any) -> Event:
    return {
        "event": "candidate",
        "time": 2.0,
        "index": 1,
        "hash": name,
        "recipe": CUT.to_data(),
        "value": 0.95 - drop,
        "drop": drop,
        "limits_hold": True,
        "n": 300,
        "batch": 8,
        "latency_ms": ms,
        "latencies": {"1": latency(ms / 4, 2.0), "8": latency(ms, 4.0 / ms)},
        "size_bytes": 10_000,
        "memory_bytes": 30_000,
        "macs": 9_000,
        "params": 90,
        "layers": [layer("conv1", 8, "int8")],
        "log": [{"step": "quantize", "what": "conv1 stays in fp32", "fell_back": True, "proof": None}],
        **changes,
    }


def verdict(outcome: Decision, name: str = "c0ffee", **changes: Any) -> Event:
    found = Verdict(
        **{
            "outcome": outcome,
            "metric": "accuracy",
            "drop": 0.01,
            "drop_lower": 0.004,
            "drop_upper": 0.017,
            "max_drop": 0.02,
            "relative": False,
            "unit": "points",
            "n": 700,
            "n_needed": 2_000 if outcome is Decision.UNDECIDED else None,
            "discordant": 21,
            "alpha": 0.05,
            "looks": 1,
            "method": "Tango's score interval",
            "reference_value": 0.951,
            "reference_interval": Interval(0.94, 0.96, 0.95),
            "candidate_value": 0.941,
            "candidate_interval": Interval(0.93, 0.95, 0.95),
            "assumptions": ("It covers this file.",),
            **changes,
        }
    )
    data = {**found.to_data(), "sentence": found.sentence()}
    return {"event": "verdict", "time": 3.0, "hash": name, "outcome": str(outcome), "verdict": data}


def finish(chosen: str = "c0ffee") -> Event:
    return {"event": "finish", "time": 4.0, "chosen": chosen}


def shown(*events: Event) -> ReportData:
    """Compose, make sure that it reads back from JSON, and that both pages can be written of it."""
    data = compose(events)
    assert ReportData.model_validate_json(data.model_dump_json()) == data
    assert verdict_words(data.verdict) in render_markdown(data)
    assert "<html" in render_html(data)
    return data


def test_a_pass() -> None:
    data = shown(baseline(), candidate(), verdict(Decision.PASS), finish())
    assert data.verdict.outcome is Decision.PASS
    assert data.verdict.unit is Unit.SHARE
    assert (data.verdict.drop.value, data.verdict.drop.low, data.verdict.drop.high) == (0.01, 0.004, 0.017)
    assert data.verdict.n_needed.reason == "decided with the samples there are"
    rows = {row.name: row for row in data.rows}
    assert list(rows) == [
        "accuracy",
        "latency, batch 8",
        "latency, batch 1",
        "size on disk",
        "parameters",
        "MACs",
        "peak memory",
    ]
    assert rows["accuracy"].method == "certificate, n = 700"
    assert (rows["accuracy"].before.value, rows["accuracy"].after.value) == (0.951, 0.941)
    assert rows["latency, batch 8"].factor is not None
    assert rows["latency, batch 8"].factor.value == 2.0
    assert (rows["size on disk"].unit, rows["size on disk"].after.value) == (Unit.BYTES, 10_000)
    roles = {point.label: (point.role, point.status) for point in data.front.candidates}
    assert roles == {
        "original": (Role.BASELINE, Status.SEARCH_ESTIMATE),
        "macs -50 % (x8), int8": (Role.CHOSEN, Status.CERTIFIED),
    }
    assert data.front.floor == pytest.approx(0.93)
    assert data.created.timestamp() == 4.0
    assert data.hashes[-1].value == "c0ffee"


def test_layers_before_and_after() -> None:
    first, second = shown(baseline(), candidate(), finish()).layers
    assert (first.width_before, first.width_after, first.format) == (16, 8, "int8")
    assert (second.width_after, second.note) == (None, "folded into the layer before it")


def test_an_undecided_verdict_says_how_many_samples_it_takes() -> None:
    data = shown(baseline(), candidate(), verdict(Decision.UNDECIDED), finish())
    assert data.verdict.outcome is Decision.UNDECIDED
    assert data.verdict.n_needed.value == 2_000
    assert [point.status for point in data.front.candidates] == [Status.SEARCH_ESTIMATE] * 2


def test_a_fail_and_limits_in_their_units() -> None:
    limits = (
        LimitResult("median latency at most 1 ms", Decision.FAIL, 2.0, 1.9, 2.1, 1.0, reason="it is slow", unit="ms"),
        LimitResult("size in bytes at most 20,000", Decision.PASS, 10_000, 10_000, 10_000, 20_000, unit="bytes"),
        LimitResult("f1 drops at most 0.1", Decision.UNDECIDED, 0.05, 0.0, 0.2, 0.1, unit="points"),
        LimitResult("loss no worse than 2", Decision.UNDECIDED, 1.0, 0.5, float("inf"), 2.0),
    )
    data = shown(baseline(), candidate(), verdict(Decision.FAIL, limits=limits), finish())
    assert data.verdict.outcome is Decision.FAIL
    assert [(limit.unit, limit.held) for limit in data.verdict.limits] == [
        (Unit.MILLISECONDS, False),
        (Unit.BYTES, True),
        (Unit.SHARE, None),
        (Unit.PLAIN, None),
    ]
    assert (data.verdict.limits[0].found.low, data.verdict.limits[0].found.high) == (1.9, 2.1)
    assert data.verdict.limits[3].found.high is None, "a limit that is infinite is no number"
    assert "2 ms" in render_markdown(data).replace("\u00a0", " ")


def test_no_candidate() -> None:
    failed = {"event": "candidate-failed", "time": 2.0, "index": 3, "why": "no operator for it", "seconds": 1.0}
    probe = {"event": "probe-failed", "time": 2.0, "index": 5, "why": "too narrow", "seconds": 1.0}
    data = shown(baseline(), probe, failed, finish("baseline"))
    assert data.verdict.outcome is None
    assert data.verdict.sentence.startswith("No candidate is better than the original")
    assert [(row.step, row.what, row.fell_back) for row in data.steps] == [
        ("recipe 5", "probe failed: too narrow", True),
        ("recipe 3", "candidate failed: no operator for it", True),
    ]
    assert [point.role for point in data.front.candidates] == [Role.BASELINE]
    assert data.rows[0].before == data.rows[0].after
    assert all(row.factor is None for row in data.rows)


def test_a_run_in_the_middle_shows_what_would_ship() -> None:
    assert shown(baseline()).hashes[-1].value == "baseline"
    tried = (candidate("aa", 3.0), candidate("bb", 2.0), candidate("cc", 1.0, drop=0.05))
    slow = candidate("dd", 0.5, limits_hold=False)
    assert shown(baseline(), *tried, slow).hashes[-1].value == "bb", "the fastest within the contract"


def test_a_metric_without_a_range_of_which_less_is_better() -> None:
    base = baseline(metric={"name": "loss", "direction": "lower", "low": 0.0, "high": float("inf")}, value=2.0)
    base["contract"] = {**base["contract"], "relative": True, "max_drop": 0.1}
    data = shown(base, candidate(value=2.1, drop=0.05), finish())
    assert data.front.floor == pytest.approx(2.2), "a tenth above the original's loss"
    assert data.front.unit is Unit.PLAIN
    assert data.verdict.unit is Unit.SHARE, "a relative drop is a share of the reference"


def test_what_was_not_measured_is_no_zero() -> None:
    data = shown(baseline(memory_bytes=None), candidate(memory_bytes=None), finish())
    (row,) = [row for row in data.rows if row.name == "peak memory"]
    assert (row.before.value, row.before.reason) == (None, "not measured")


def test_a_noisy_latency_says_so() -> None:
    data = shown(
        baseline(latencies={"1": latency(1.0), "8": latency(4.0, noise="a spread of 12 %")}), finish("baseline")
    )
    assert data.front.candidates[0].latency_ms.note.endswith("noisy")


@pytest.mark.parametrize("n", [1, 5, 700])
def test_the_power_of_any_number_of_samples_can_be_shown(n: int) -> None:
    data = shown(baseline(power=asdict(power(n, 0.05, 0.05))), finish("baseline"))
    assert data.power.n == n


def test_nothing_to_report() -> None:
    with pytest.raises(RunError, match="the journal holds no baseline yet"):
        compose([])


def test_costs_come_last_and_only_at_a_price() -> None:
    events = [baseline(), candidate(), verdict(Decision.PASS), finish()]
    without = compose(events)
    priced = compose(events, Pricing(3.6, rate=5000.0))
    assert priced.rows[: len(without.rows)] == without.rows
    added = [row.name for row in priced.rows[len(without.rows) :]]
    assert added == [f"{what}, batch {n}" for n in (8, 1) for what in ("cost of a million samples", MACHINES)]
    assert "cheaper" in render_markdown(priced)
    assert "cost of a million samples, batch 8" in render_html(priced)
    assert ReportData.model_validate_json(priced.model_dump_json()) == priced
