"""Layers are found again in what a runtime makes of the file, and all of its time is somebody's."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import penjing as pj
from penjing.errors import RuntimeUnavailable
from penjing.measuring.layer_times import conversion_ms, layer_times
from penjing.runtimes import find_runtime
from penjing.runtimes.kernels import TellsTimes

RUNTIMES = ["onnxruntime", "openvino"]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = x + self.deep(x).relu()
        return self.head(x.amax((2, 3)))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("quantized", [False, True])
def test_each_layer_has_a_time(model: nn.Module, runtime: str, quantized: bool) -> None:
    x = torch.randn(2, 3, 12, 12)
    if quantized:
        model = pj.apply(pj.Workload(model, x, calibration=[x]), pj.Quantize(method="minmax")).model
    found = layer_times(model, x, runtime, calls=3)
    assert set(found.layers) == {"stem", "deep", "head"}
    assert all(spent > 0 for spent in found.layers.values())
    assert found.total_ms == pytest.approx(sum(found.layers.values()) + found.other_ms)
    assert 0 <= found.other_ms < 100


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_time_of_every_operator_is_told_under_a_name_of_its_kernel(
    model: nn.Module, runtime: str, tmp_path: Path
) -> None:
    x = torch.randn(2, 3, 12, 12)
    artifact, target = pj.export(model, x, tmp_path / "a", runtime), find_runtime(runtime)
    assert isinstance(target, TellsTimes)
    times = target.times(artifact.path, artifact.options, [x.numpy()], 2)
    for kernel in target.kernels(artifact.path, artifact.options):
        if kernel.kind.startswith(("Conv", "Gemm", "FullyConnected")):
            assert set(kernel.operators) & set(times), kernel


def test_a_runtime_without_a_clock_is_refused(model: nn.Module) -> None:
    with pytest.raises(RuntimeUnavailable, match="torch does not time its kernels; use one that does"):
        layer_times(model, torch.randn(2, 3, 12, 12), "torch")


def test_a_change_of_format_costs_something() -> None:
    assert 0 < conversion_ms() < 1e-3
