"""The machine as a target: measured once, kept, and asked by PruneChannels under the name of a runtime."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import penjing as pj
from penjing.errors import PenjingError, RunError, RuntimeUnavailable
from penjing.measuring import target as target_module
from penjing.measuring.target import MeasuredTarget, measured_target
from penjing.structure import couple


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("home")
        patch.setenv("PENJING_HOME", str(folder))
        yield folder


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Flatten(1, 2)
    )


X = torch.zeros(4, 3, 12, 12)


@pytest.fixture(scope="module")
def target(home: Path) -> MeasuredTarget:
    return measured_target(network(), X, most=12)


def test_narrower_is_predicted_faster(target: MeasuredTarget) -> None:
    coupling = couple(network(), X)
    latency = target.latency_of(coupling.captured.module.graph)
    whole = latency(coupling.captured.shapes)
    assert latency(coupling.shapes_after({"0": list(range(32))})) < 0.8 * whole
    assert whole == pytest.approx(target.baseline_ms, rel=0.25)
    assert f"{target.model.samples} networks measured" in str(target)


def test_what_was_measured_is_not_measured_again(
    target: MeasuredTarget, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: Any) -> Any:
        raise AssertionError("the fit is in the cache")

    monkeypatch.setattr(target_module, "measured_variant", never)
    again = measured_target(network(), X, most=12)
    assert again.model == target.model


def test_a_ratio_of_latency_is_met_in_the_runtime(target: MeasuredTarget) -> None:
    outcome = pj.apply(network(), pj.PruneChannels(0.4, of="latency"), X, runtime="onnxruntime")
    (row,) = [row for row in outcome.log if row.what.startswith("latency in onnxruntime")]
    assert "measured of" in row.what
    assert "predicted" in row.what
    assert outcome.model[0].out_channels < 64


def test_a_runtime_that_is_unknown_is_refused_before_any_work() -> None:
    with pytest.raises(RuntimeUnavailable, match="runtime='abacus' is unknown; use one of 'executorch'"):
        pj.apply(network(), pj.PruneChannels(0.4, of="latency"), X, runtime="abacus")


def test_nothing_is_measured_for_a_step_that_does_not_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("round_to is given")

    monkeypatch.setattr(target_module, "measured_target", never)
    outcome = pj.apply(network(), pj.PruneChannels(0.5, round_to=4), X, runtime="onnxruntime")
    assert outcome.model[0].out_channels < 64


def test_versions_that_cannot_be_run_are_an_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> Any:
        raise PenjingError("no such kernel")

    monkeypatch.setattr(target_module, "measured_variant", broken)
    with pytest.raises(RunError, match=r"only 0 of 12 narrower versions .* no such kernel; choose widths without"):
        measured_target(network(), X, most=12, seed=5)
