"""ONNX Runtime: the conformance kit, and what is its own."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from penjing.errors import RuntimeUnavailable
from penjing.runtimes import export
from penjing.testing.runtimes import RuntimeCase
from penjing.workload.samples import ResNet


class TestOnnxRuntime(RuntimeCase):
    runtime = "onnxruntime"
    option = ("threads", 2)


def test_the_file_holds_nothing_of_this_machine(tmp_path: Path) -> None:
    export(ResNet((1, 1), (4, 8)), torch.zeros(1, 1, 8, 8), tmp_path / "a")
    content = (tmp_path / "a" / "model.onnx").read_bytes()
    assert __file__.encode() not in content
    assert b"site-packages" not in content


def test_opset_and_names(tmp_path: Path) -> None:
    import onnx

    export(ResNet((1, 1), (4, 8)), torch.zeros(1, 1, 8, 8), tmp_path / "a")
    model = onnx.load(tmp_path / "a" / "model.onnx")
    assert [(i.domain, i.version) for i in model.opset_import] == [("", 20)]
    assert [i.name for i in model.graph.input] == ["x"]
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"thread": 1}, "threads, inter_op_threads, graph_optimization, precision, providers"),
        ({"threads": 0}, "threads=0"),
        ({"threads": True}, "threads=True"),
        ({"graph_optimization": "max"}, "disable, basic, extended, all"),
        ({"providers": ["NoSuchProvider"]}, "NoSuchProvider.*CPUExecutionProvider"),
    ],
)
def test_impossible_options(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(RuntimeUnavailable, match=message):
        export(nn.Linear(2, 2), torch.zeros(1, 2), tmp_path / "a", options=options)


def test_an_operator_without_translation_is_named(tmp_path: Path) -> None:
    class Eigenvalues(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.eigvalsh(x @ x.mT)

    with pytest.raises(RuntimeUnavailable, match="_linalg_eigh"):
        export(Eigenvalues(), torch.randn(2, 3, 3), tmp_path / "a")


def test_a_missing_package_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else found(name))
    with pytest.raises(RuntimeUnavailable, match=r"lacks onnxruntime.*pip install 'penjing'"):
        export(nn.Linear(2, 2), torch.zeros(1, 2), tmp_path / "a")


def test_export_is_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> None:
    export(nn.Linear(2, 2), torch.zeros(1, 2), tmp_path / "a")
    captured = capfd.readouterr()
    assert (captured.out, captured.err, len(recwarn)) == ("", "", 0)
