"""The capability table: measured, kept for the machine, and honest about what the time did not reach."""

from itertools import count
from pathlib import Path

import pytest
import torch
from torch import nn

from penjing.errors import PenjingError
from penjing.measuring.capability import calibrate, capabilities, factors
from penjing.measuring.probes import PROBES, Int8Weights, Probe, products


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENJING_HOME", str(tmp_path))


def probes(*names: str) -> list[Probe]:
    return [probe for probe in PROBES if probe.pattern in names]


def test_low_rank_pays_and_zeros_do_not() -> None:
    rows = calibrate(["onnxruntime"], probes("low rank", "unstructured 90 %"))
    found = factors(rows)
    assert found["onnxruntime", "low rank"] > 1.5
    assert 0.7 < found["onnxruntime", "unstructured 90 %"] < 1.4, "no kernel of ONNX Runtime skips zeros"
    assert capabilities() == rows


def test_a_second_calibration_keeps_the_other_rows() -> None:
    calibrate(["onnxruntime"], probes("low rank"))
    calibrate(["onnxruntime"], probes("depthwise"))
    assert [row.pattern for row in capabilities()] == ["low rank", "depthwise"]


def test_what_the_budget_does_not_reach_says_so() -> None:
    ticks = count(0.0, 10.0)
    rows = calibrate(["onnxruntime"], probes("low rank", "depthwise"), budget_s=15.0, clock=lambda: next(ticks))
    assert [row.factor is None for row in rows] == [True, False] or [row.factor is None for row in rows] == [
        False,
        True,
    ]
    (late,) = [row for row in rows if row.factor is None]
    assert "the 15 s were over" in str(late)


def test_what_cannot_be_run_is_a_row_with_its_reason() -> None:
    def impossible(model: nn.Module, x: torch.Tensor) -> nn.Module:
        raise PenjingError("no such pattern")

    (row,) = calibrate(["onnxruntime"], [Probe("odd", "", "linear", 2.0, impossible)])
    assert (row.factor, row.why) == (None, "no such pattern")


def test_a_precision_is_asked_only_of_runtimes_that_have_it() -> None:
    assert calibrate(["onnxruntime"], probes("bf16 linear", "fp16 linear")) == ()


def test_weights_in_int8_compute_what_they_store() -> None:
    (linear, _) = products()
    assert isinstance(linear, nn.Linear)
    packed, x = Int8Weights(linear), torch.randn(3, linear.in_features)
    expected = linear(x)
    assert (packed(x) - expected).abs().max() < 0.02 * expected.abs().max()
