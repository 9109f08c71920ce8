"""Pads of zeros go into the convolutions that read them, and the graph computes what it did."""

import pytest
import torch
from torch import nn

from penjing.structure import capture
from penjing.techniques.quantize.pads import merge_pads
from penjing.workload import ExampleInputs


def merged(*layers: nn.Module, x: torch.Tensor) -> int:
    """Merge in the graph of a chain, check that it gives what the chain gives, and say how many pads went."""
    model = nn.Sequential(*layers).eval()
    module = capture(model, ExampleInputs.of((x,))).module
    count = merge_pads(module)
    with torch.no_grad():
        torch.testing.assert_close(module(x)[0], model(x))
    pads = [node for node in module.graph.nodes if "pad" in str(node.target).split(".")]
    assert bool(pads) == (count == 0)
    return count


IMAGES = torch.randn(2, 3, 9, 11, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("pad", "convolution"),
    [
        (nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3)),
        (nn.ZeroPad2d((2, 2, 1, 1)), nn.Conv2d(3, 4, 3, stride=2)),
        (nn.ConstantPad2d((2, 2, 0, 0), 0.0), nn.Conv2d(3, 3, 3, padding=1, groups=3, bias=False)),
    ],
)
def test_the_same_zeros_at_both_ends_are_padding(pad: nn.Module, convolution: nn.Module) -> None:
    assert merged(pad, convolution, x=IMAGES) == 1


@pytest.mark.parametrize(
    "pad", [nn.ZeroPad2d((0, 1, 0, 1)), nn.ConstantPad2d(1, 0.5), nn.ReflectionPad2d(1), nn.ZeroPad2d(-1)]
)
def test_what_is_no_padding_of_a_convolution_stays(pad: nn.Module) -> None:
    assert merged(pad, nn.Conv2d(3, 4, 3), x=IMAGES) == 0


def test_signals_too() -> None:
    assert merged(nn.ZeroPad1d(2), nn.Conv1d(3, 4, 5), x=IMAGES[:, :, 0]) == 1
