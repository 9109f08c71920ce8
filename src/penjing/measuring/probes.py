"""Small networks in pairs, the usual one and one that should be faster: what a runtime makes of a technique."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from penjing.techniques.quantize import ops  # noqa: F401 - the operators of Int8Weights

_WIDTH, _SIDE, _FEATURES, _ROWS = 64, 28, 512, 32
Pair = tuple[nn.Module, nn.Module, Tensor]


@dataclass(frozen=True)
class Probe:
    """One question to a runtime: how many times faster is the changed network?

    ideal: what the multiply-accumulates, or the bytes of the weights, would make of it. precision: that of the changed
    network, where it is the precision that changes.
    """

    pattern: str
    what: str
    ideal: float
    make: Callable[[], Pair]
    precision: str | None = None


def convolutions(widths: tuple[int, ...], groups: int = 1) -> nn.Sequential:
    """3x3 convolutions with rectifiers, from and to _WIDTH channels, of these widths between."""
    channels = (_WIDTH, *widths, _WIDTH)
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [nn.Conv2d(before, after, 3, padding=1, groups=groups), nn.ReLU()]
    return nn.Sequential(*layers)


def products(*between: int, rank: int | None = None) -> nn.Sequential:
    """Linear layers with rectifiers, from and to _FEATURES, of these widths between; with a rank, each as two."""
    features = (_FEATURES, *between, _FEATURES)
    layers: list[nn.Module] = []
    for before, after in pairwise(features):
        one = [nn.Linear(before, after)]
        layers += [*(one if rank is None else [nn.Linear(before, rank, bias=False), nn.Linear(rank, after)]), nn.ReLU()]
    return nn.Sequential(*layers)


class Int8Weights(nn.Module):
    """A linear layer whose weight is stored in int8, by output channel, and multiplied in float32."""

    weight: Tensor
    scale: Tensor
    zeros: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.detach().abs().amax(1) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("zeros", torch.zeros(len(scale), dtype=torch.int8))
        self.register_buffer("weight", (linear.weight.detach() / scale[:, None]).round().to(torch.int8))
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.ops.penjing.dequantize_linear(self.weight, self.scale, self.zeros, 0)
        return nn.functional.linear(x, weight, self.bias)


def _images() -> Tensor:
    return torch.randn(1, _WIDTH, _SIDE, _SIDE)


def _rows() -> Tensor:
    return torch.randn(_ROWS, _FEATURES)


def _widths(width: int) -> Callable[[], Pair]:
    return lambda: (convolutions((_WIDTH,)), convolutions((width,)), _images())


def _depthwise() -> Pair:
    return convolutions((_WIDTH,)), convolutions((_WIDTH,), groups=_WIDTH), _images()


def _zeroed(pattern: Callable[[Tensor], Tensor]) -> Callable[[], Pair]:
    def make() -> Pair:
        dense, sparse = products(_FEATURES), products(_FEATURES)
        with torch.no_grad():
            for layer in sparse:
                if isinstance(layer, nn.Linear):
                    layer.weight *= pattern(layer.weight)
        return dense, sparse, _rows()

    return make


def _two_of_four(weight: Tensor) -> Tensor:
    blocks = weight.abs().reshape(-1, 4)
    mask = torch.zeros_like(blocks).scatter_(1, blocks.topk(2, dim=1).indices, 1.0)
    return mask.reshape(weight.shape)


def _tenth(weight: Tensor) -> Tensor:
    return (weight.abs() >= weight.abs().quantile(0.9)).float()


def _low_rank() -> Pair:
    return products(_FEATURES), products(_FEATURES, rank=_FEATURES // 8), _rows()


def _int8(make: Callable[[], nn.Sequential], inputs: Callable[[], Tensor]) -> Callable[[], Pair]:
    def pair() -> Pair:
        from penjing.recipe import Quantize
        from penjing.techniques import apply
        from penjing.workload import Workload

        model, x = make().eval(), inputs()
        return model, apply(Workload(model, x, calibration=[(x,)]), Quantize("int8", method="minmax")).model, x

    return pair


def _weight_only() -> Pair:
    dense = products(_FEATURES)
    packed = nn.Sequential(*(Int8Weights(layer) if isinstance(layer, nn.Linear) else layer for layer in dense))
    return dense, packed, torch.randn(1, _FEATURES)


def _format(precision: str, make: Callable[[], nn.Module], inputs: Callable[[], Tensor], name: str) -> Probe:
    def pair() -> Pair:
        model = make()
        return model, model, inputs()

    return Probe(f"{precision} {name}", f"arithmetic in {precision}", 2.0, pair, precision)


def _convolution_pair() -> nn.Sequential:
    return convolutions((_WIDTH,))


def _product_pair() -> nn.Sequential:
    return products(_FEATURES)


PROBES: tuple[Probe, ...] = (
    *(_format(p, _convolution_pair, _images, "convolution") for p in ("bf16", "fp16")),
    *(_format(p, _product_pair, _rows, "linear") for p in ("bf16", "fp16")),
    Probe("int8 convolution", "weights and activations in int8", 4.0, _int8(_convolution_pair, _images)),
    Probe("int8 linear", "weights and activations in int8", 4.0, _int8(_product_pair, _rows)),
    Probe("width 48 of 64", "a multiple of 16 between two convolutions", 64 / 48, _widths(48)),
    Probe("width 56 of 64", "a multiple of 8 between two convolutions", 64 / 56, _widths(56)),
    Probe("width 52 of 64", "a multiple of 4 between two convolutions", 64 / 52, _widths(52)),
    Probe("width 51 of 64", "an odd width between two convolutions", 64 / 51, _widths(51)),
    Probe("depthwise", "each filter sees one channel of 64", 64.0, _depthwise),
    Probe("low rank", "512 x 512 as 512 x 64 x 512", 4.0, _low_rank),
    Probe("2:4", "two of four weights are zero", 2.0, _zeroed(_two_of_four)),
    Probe("unstructured 90 %", "nine weights of ten are zero, anywhere", 10.0, _zeroed(_tenth)),
    Probe("weight-only int8", "int8 weights, float32 products, one row", 4.0, _weight_only),
)
