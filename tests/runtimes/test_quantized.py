"""Int8 models: the file holds integers, computes what the simulation computes, and is compared by its own rule."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import penjing.techniques.quantize.ops  # noqa: F401 - defines torch.ops.penjing
from penjing.errors import ArtifactError, RuntimeUnavailable
from penjing.recipe import Quantize
from penjing.runtimes import RUNTIMES, export
from penjing.runtimes.agreement import TOLERANCE_RMS, rms_difference
from penjing.techniques import apply
from penjing.workload import Workload
from penjing.workload.samples import ResNet


class Int8Linear(nn.Module):
    """y = dequantise(quantise(x)) W^T with W in int8 by output channel."""

    weight: Tensor
    scale: Tensor
    zeros: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("weight", torch.randint(-127, 128, (64, 32), dtype=torch.int8))
        self.register_buffer("scale", torch.rand(64) * 0.01)
        self.register_buffer("zeros", torch.zeros(64, dtype=torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        scale, zero = torch.tensor(0.02), torch.tensor(128, dtype=torch.uint8)
        stored = torch.ops.penjing.quantize_linear(x, scale, zero, 0)
        x = torch.ops.penjing.dequantize_linear(stored, scale, zero, 0)
        weight = torch.ops.penjing.dequantize_linear(self.weight, self.scale, self.zeros, 0)
        return nn.functional.linear(x, weight)


def test_weights_stay_int8_in_the_file(tmp_path: Path) -> None:
    artifact = export(Int8Linear(), torch.randn(1, 32), tmp_path / "a")
    graph = onnx.load(artifact.path / "model.onnx").graph
    stored = {tuple(i.dims): i.data_type for i in graph.initializer}
    assert stored[(64, 32)] == onnx.TensorProto.INT8
    kinds = [node.op_type for node in graph.node]
    assert (kinds.count("QuantizeLinear"), kinds.count("DequantizeLinear")) == (1, 2)
    assert artifact.size_bytes < 64 * 32 * 4


def test_the_runtime_computes_the_simulation(tmp_path: Path) -> None:
    model, x = Int8Linear(), torch.randn(16, 32)
    actual = export(model, x, tmp_path / "a").load()(x)
    assert rms_difference(model(x).numpy(), actual.numpy()) < 0.01


def test_the_looser_rule_still_refuses_another_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Int8Linear(), torch.randn(16, 32)
    calls = iter(range(100))

    def forward(x: Tensor) -> Tensor:  # the simulation moves after it was captured
        grows = 1 + 2 * TOLERANCE_RMS["int8"] if not torch.compiler.is_exporting() and next(calls) else 1.0
        return Int8Linear.forward(model, x) * grows

    monkeypatch.setattr(model, "forward", forward)
    with pytest.raises(ArtifactError, match=r"differs.*root mean square.*tolerance 0.05"):
        export(model, x, tmp_path / "a")


def test_rms_difference_has_a_closed_form() -> None:
    expected = np.full((2, 8), 2.0, np.float32)
    assert rms_difference(expected, expected * 1.25) == pytest.approx(0.25)
    assert rms_difference(np.zeros(3), np.zeros(3)) == 0.0


@pytest.mark.parametrize("runtime", ["openvino", "executorch", "torch"])
def test_other_runtimes_compute_the_simulation(runtime: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, x = ResNet((1, 1), (8, 16)).eval(), torch.randn(8, 1, 8, 8)
    model = apply(Workload(network, x, calibration=[(x,)]), Quantize("int8", method="minmax")).model
    actual = export(model, x, tmp_path / "a", runtime).load()(x)
    assert rms_difference(model(x).numpy(), actual.numpy()) < 0.05


def test_a_file_of_a_newer_opset_is_refused_with_its_number(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    graph = onnx.helper.make_graph([node], "g", [x], [y])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 99)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(RuntimeUnavailable, match=r"Opset 99 .*till opset \d+.*export the model again"):
        RUNTIMES["onnxruntime"].load(tmp_path, {})
