"""Pads of zeros become padding of the convolutions that read them, also between integers."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from penjing.recipe import Quantize
from penjing.runtimes import export, load
from penjing.techniques import apply
from penjing.workload import Workload

X = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(0))


def operators(folder: Path) -> list[str]:
    return [node.op_type for node in onnx.load(folder / "model.onnx").graph.node]


def net(pad: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), pad, nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=6)).eval()


@pytest.mark.parametrize("int8", [False, True])
def test_an_uneven_pad_of_zeros_goes_into_the_convolution(int8: bool, tmp_path: Path) -> None:
    model = net(nn.ZeroPad2d((0, 1, 2, 3)))
    if int8:
        model = apply(Workload(model, X, calibration=[X] * 10), Quantize(method="minmax")).model
    export(model, X, tmp_path / "file")
    assert "Pad" not in operators(tmp_path / "file")
    assert operators(tmp_path / "file").count("QuantizeLinear") == (3 if int8 else 0)
    (conv,) = [n for n in onnx.load(tmp_path / "file" / "model.onnx").graph.node if n.op_type == "Conv"][1:]
    assert next(list(a.ints) for a in conv.attribute if a.name == "pads") == [3, 1, 4, 2]
    np.testing.assert_allclose(load(tmp_path / "file")(X), model(X).detach(), atol=0.03 if int8 else 1e-5)


@pytest.mark.parametrize("pad", [nn.ConstantPad2d((0, 1, 0, 1), 1.0), nn.ReflectionPad2d((0, 1, 0, 1))])
def test_other_pads_stay(pad: nn.Module, tmp_path: Path) -> None:
    export(net(pad), X, tmp_path / "file")
    assert "Pad" in operators(tmp_path / "file")
