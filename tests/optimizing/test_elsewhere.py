"""The whole line from an .onnx file, and in another runtime than the first."""

from pathlib import Path

import pytest
import torch
from torch import nn

import penjing as pj
from penjing.workload import digits

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENJING_HOME", str(tmp_path / "home"))


def workload(model: nn.Module | Path) -> pj.Workload:
    images, labels = digits()

    def batches(start: int, stop: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(zip(images[start:stop].split(64), labels[start:stop].split(64), strict=True))

    loss = nn.functional.cross_entropy
    data = {"train": batches(0, 800), "evaluation": batches(800, 1100), "certificate": batches(1100, 1797)}
    return pj.Workload(model, images[:8], **data, metric=pj.accuracy(), loss=loss)


def network() -> nn.Module:
    torch.manual_seed(0)
    images, labels = digits()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[:800]), labels[:800]).backward()
        optimizer.step()
    return model.eval()


def test_an_onnx_file_goes_through_the_line(tmp_path: Path) -> None:
    original = pj.export(network(), digits()[0][:8], tmp_path / "original")
    run = pj.optimize(workload(original.path / "model.onnx"), pj.Contract(0.05), budget="5s", out=tmp_path / "run")
    assert run.best.runtime == "onnxruntime"
    assert len(run.front) > 1
    assert run.best.load()(digits()[0][:3]).shape == (3, 10)


def test_openvino_is_searched_and_judged_in(tmp_path: Path) -> None:
    contract = pj.Contract(0.05, minimize="size")
    run = pj.optimize(workload(network()), contract, runtime="openvino", budget="5s", out=tmp_path / "run")
    assert run.best.runtime == "openvino"
    assert run.best.options["precision"] == "fp32"
    assert len(run.front) > 1
