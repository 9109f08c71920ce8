"""The benchmarks are listed and can be named; what they are made of counts right. Nothing is timed here."""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def room(name: str) -> Any:
    return importlib.import_module(f"benchmarks.{name}")


def test_all_benchmarks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    helpers = {"__init__", "__main__", "common", "tables", "photos", "sentences", "rivals"}
    files = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - helpers
    assert set(room("__main__").ORDER) == set(room("__main__").USUAL) == files
    assert room("__main__").main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert all(f"{name} " in listed and room("__main__").headline(name) in listed for name in files)


def test_an_unknown_name_is_refused_with_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        room("__main__").main(["width"])
    message = capsys.readouterr().err
    assert "'width'" in message
    assert "widths" in message


def test_a_failure_is_told_and_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = []

    def fake(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
        ran.append(command[-1])
        return subprocess.CompletedProcess(command, int(command[-1] == "benchmarks.widths"))

    monkeypatch.setattr(subprocess, "run", fake)
    assert room("__main__").main(["widths", "demo"]) == 1
    assert ran == ["benchmarks.widths", "benchmarks.demo"]
    assert "failed: widths" in capsys.readouterr().err


def test_resnet50_has_its_known_size() -> None:
    module = room("profile_speed")
    with torch.device("meta"):
        model = module.resnet50()
    assert sum(parameter.numel() for parameter in model.parameters()) == module.PARAMS == 25_557_032


def test_widths_are_those_asked_for() -> None:
    model = room("widths").Network((16, 32, 64), (4, 12, 28))
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert [block.conv1.out_channels for block in model.blocks] == [4] * 3 + [12] * 3 + [28] * 3
    assert [block.conv2.out_channels for block in model.blocks] == [16] * 3 + [32] * 3 + [64] * 3


def test_signal_to_noise_in_decibel() -> None:
    signal = torch.tensor([[1.0], [-1.0]])  # about its mean of 0: energy 2; the noise below has 0.02
    found = room("quantize_peer").sqnr_db(lambda x: x.numpy(), lambda x: (1.1 * x).numpy(), signal)
    assert found == pytest.approx(20.0, abs=1e-4)


def test_the_probe_of_imports_times_the_statement() -> None:
    wall, running = room("import_time").once("import time; time.sleep(0.05)")
    assert wall >= 0.05 > running
    done = subprocess.run([sys.executable, "-c", "import penjing; assert 'onnx' not in __import__('sys').modules"])
    assert done.returncode == 0
