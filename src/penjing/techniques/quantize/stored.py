"""The weight and bias of a layer as a quantised graph stores them, to be read and written anew."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from penjing.recipe.schemes import INTEGERS
from penjing.structure.rules import bind
from penjing.techniques.quantize.graph import CONVOLUTIONS, LINEAR, tensor_of
from penjing.techniques.quantize.insert import DEQUANTIZE
from penjing.techniques.quantize.layers import limits_of
from penjing.techniques.quantize.pack import DYNAMIC_LINEAR, UNPACK


@dataclass(frozen=True)
class Stored:
    """Integers `whole`, of which outputs x inputs is one view, with scale and zero point of each.

    matrix: how the view comes about, from the shape that is stored. limits: smallest and largest step.
    """

    whole: Tensor
    scale: Tensor
    zero: Tensor
    limits: tuple[int, int]
    bias: "Tensor | None"
    bias_scale: "Tensor | None"
    transposed: bool = False

    @property
    def steps(self) -> Tensor:
        """The integers that are stored, as [outputs, inputs]."""
        return self._matrix(self.whole).clone()

    @property
    def real(self) -> Tensor:
        """The weight that is computed with, float64 [outputs, inputs]."""
        return (self._matrix(self.whole).double() - self.zero) * self.scale

    def write(self, steps: Tensor) -> None:
        """Store other integers [outputs, inputs]."""
        steps = steps.to(self.whole.dtype)
        self.whole.copy_((steps.T if self.transposed else steps).reshape(self.whole.shape))

    def move_bias(self, shift: Tensor) -> None:
        """Add to the bias [outputs], in whole steps where it is stored in steps."""
        assert self.bias is not None
        if self.bias_scale is None:
            self.bias.add_(shift.to(self.bias.dtype))
        else:
            self.bias.add_(torch.round(shift.double() / self.bias_scale.double()).to(self.bias.dtype))

    def _matrix(self, values: Tensor) -> Tensor:
        return values.T if self.transposed else values.reshape(self.scale.shape)


def stored(module: fx.GraphModule, layer: fx.Node) -> Stored | None:
    """Read how a convolution or linear stores its weight; None for one that does not in integers."""
    if layer.target is DYNAMIC_LINEAR:
        whole, scale = (tensor_of(module, each) for each in layer.args[1:3])  # type: ignore[arg-type]
        bias = layer.args[3]
        wide = scale.double()[:, None].expand(whole.shape[1], whole.shape[0])
        return Stored(whole, wide, torch.zeros_like(wide), INTEGERS["int8"], _float_bias(module, bias), None, True)
    if layer.target not in CONVOLUTIONS and layer.target is not LINEAR:
        return None
    call = bind(layer)
    weight, bias = call["weight"], call["bias"]
    if not isinstance(weight, fx.Node) or weight.target not in (DEQUANTIZE, UNPACK):
        return None
    whole, scale = (tensor_of(module, each) for each in weight.args[:2])  # type: ignore[arg-type]
    zero = None if weight.args[2] is None else tensor_of(module, weight.args[2])  # type: ignore[arg-type]
    if whole.dtype not in (torch.int8, torch.uint8):
        return None
    outputs = whole.shape[0]
    wide, zeros = (
        _widen(each, whole).reshape(outputs, -1) for each in (scale, torch.zeros(()) if zero is None else zero)
    )
    limits = limits_of(str(weight.args[0].target), whole.dtype)  # type: ignore[union-attr]
    if isinstance(bias, fx.Node) and bias.target is DEQUANTIZE:
        steps, size = (tensor_of(module, each) for each in bias.args[:2])  # type: ignore[arg-type]
        return Stored(whole, wide, zeros, limits, steps, size)
    return Stored(whole, wide, zeros, limits, _float_bias(module, bias), None)


def _float_bias(module: fx.GraphModule, bias: Any) -> Tensor | None:
    return tensor_of(module, bias) if isinstance(bias, fx.Node) and bias.op == "get_attr" else None


def _widen(values: Tensor, like: Tensor) -> Tensor:
    """Values of each output, or of what broadcasts, over a whole weight, float64."""
    if values.ndim == 1:
        values = values.reshape(-1, *[1] * (like.ndim - 1))
    return values.double().expand(like.shape)
