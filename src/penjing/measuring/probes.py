"""Small networks in pairs, the usual one and one that should be faster: what a runtime makes of a technique."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from penjing.techniques.quantize import ops  # noqa: F401 - the operators of Int8Weights

_WIDTH, _SIDE, _FEATURES, _ROWS = 64, 28, 512, 32


@dataclass(frozen=True)
class Probe:
    """One question to a runtime: how many times faster is the changed network than the usual one of USUAL?

    change: of the usual network. ideal: what the multiply-accumulates, or the bytes of the weights, would make of it.
    precision: that of the changed network, where it is the precision that changes. batch: the samples in a call, where
    they are not the usual number.
    """

    pattern: str
    what: str
    usual: str
    ideal: float
    change: Callable[[nn.Module, Tensor], nn.Module]
    precision: str | None = None
    batch: int | None = None


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


def _usual_convolutions() -> tuple[nn.Module, Tensor]:
    return convolutions((_WIDTH,)), torch.randn(1, _WIDTH, _SIDE, _SIDE)


def _usual_products() -> tuple[nn.Module, Tensor]:
    return products(_FEATURES), torch.randn(_ROWS, _FEATURES)


USUAL: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "convolution": _usual_convolutions,
    "linear": _usual_products,
}


def _same(model: nn.Module, x: Tensor) -> nn.Module:
    return model


def _narrow(width: int) -> Callable[[nn.Module, Tensor], nn.Module]:
    return lambda model, x: convolutions((width,))


def _depthwise(model: nn.Module, x: Tensor) -> nn.Module:
    return convolutions((_WIDTH,), groups=_WIDTH)


def _low_rank(model: nn.Module, x: Tensor) -> nn.Module:
    return products(_FEATURES, rank=_FEATURES // 8)


def _zeroed(mask: Callable[[Tensor], Tensor]) -> Callable[[nn.Module, Tensor], nn.Module]:
    def change(model: nn.Module, x: Tensor) -> nn.Module:
        sparse = copy.deepcopy(model)
        with torch.no_grad():
            for layer in sparse.modules():
                if isinstance(layer, nn.Linear):
                    layer.weight *= mask(layer.weight)
        return sparse

    return change


def _two_of_four(weight: Tensor) -> Tensor:
    blocks = weight.abs().reshape(-1, 4)
    return torch.zeros_like(blocks).scatter_(1, blocks.topk(2, dim=1).indices, 1.0).reshape(weight.shape)


def _tenth(weight: Tensor) -> Tensor:
    return (weight.abs() >= weight.abs().quantile(0.9)).float()


def _int8(model: nn.Module, x: Tensor) -> nn.Module:
    from penjing.recipe import Quantize
    from penjing.techniques import apply
    from penjing.workload import Workload

    return apply(Workload(model, x, calibration=[(x,)]), Quantize("int8", method="minmax")).model


def _weight_only(model: nn.Module, x: Tensor) -> nn.Module:
    assert isinstance(model, nn.Sequential)
    return nn.Sequential(*(Int8Weights(layer) if isinstance(layer, nn.Linear) else layer for layer in model))


PROBES: tuple[Probe, ...] = (
    *(
        Probe(f"{precision} {usual}", f"arithmetic in {precision}", usual, 2.0, _same, precision)
        for usual in USUAL
        for precision in ("bf16", "fp16")
    ),
    *(Probe(f"int8 {usual}", "weights and activations in int8", usual, 4.0, _int8) for usual in USUAL),
    Probe("width 48 of 64", "a multiple of 16 between two convolutions", "convolution", 64 / 48, _narrow(48)),
    Probe("width 56 of 64", "a multiple of 8 between two convolutions", "convolution", 64 / 56, _narrow(56)),
    Probe("width 52 of 64", "a multiple of 4 between two convolutions", "convolution", 64 / 52, _narrow(52)),
    Probe("width 51 of 64", "an odd width between two convolutions", "convolution", 64 / 51, _narrow(51)),
    Probe("depthwise", "each filter sees one channel of 64", "convolution", 64.0, _depthwise),
    Probe("low rank", "512 x 512 as 512 x 64 x 512", "linear", 4.0, _low_rank),
    Probe("2:4", "two of four weights are zero", "linear", 2.0, _zeroed(_two_of_four)),
    Probe("unstructured 90 %", "nine weights of ten are zero, anywhere", "linear", 10.0, _zeroed(_tenth)),
    Probe("weight-only int8", "int8 weights, float32 products, one row", "linear", 4.0, _weight_only, batch=1),
)
