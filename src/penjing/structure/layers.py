"""The layers of a graph: calls that compute y = W x + b with a parameter W."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F  # noqa: N812

from penjing.structure.rules import bind, operator_name

# Operator -> the names of x, W and b in its schema, and the dimension of W that x meets.
_LAYERS: dict[str, tuple[str, str, str | None, int]] = {
    "aten::linear": ("input", "weight", "bias", 1),
    "aten::addmm": ("mat1", "mat2", "self", 0),
    "aten::mm": ("self", "mat2", None, 0),
    "aten::matmul": ("self", "other", None, 0),
    **{f"aten::conv{n}d": ("input", "weight", "bias", 1) for n in (1, 2, 3)},
    **{f"aten::conv_transpose{n}d": ("input", "weight", "bias", 0) for n in (1, 2, 3)},
}


@dataclass(frozen=True)
class Layer:
    """A call that computes y = W x + b.

    contracted: the dimension of W that x meets. axis: where the channels of x and of y lie, from the last dimension.
    settings: its other arguments by name.
    """

    node: fx.Node
    x: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    contracted: int
    axis: int
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, node: fx.Node, tensors: Mapping[str, Tensor]) -> "Layer | None":
        """Read a call; None where it is no layer, or its weight or bias is computed."""
        known = _LAYERS.get(operator_name(node.target)) if node.op == "call_function" else None
        if known is None:
            return None
        settings = bind(node)
        x, weight, bias = (settings.pop(name) if name else None for name in known[:3])
        as_they_are = is_read(weight, tensors) and (bias is None or is_read(bias, tensors))
        if not isinstance(x, fx.Node) or not isinstance(weight, fx.Node) or not as_they_are:
            return None
        rank = tensors[str(weight.target)].ndim
        scaled = any(settings.get(name, 1) != 1 for name in ("alpha", "beta"))
        if rank < 2 or scaled or any(isinstance(value, fx.Node) for value in settings.values()):
            return None
        return cls(node, x, weight, bias, known[3], 1 - rank, settings)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """y = W x + b."""
        return self._call(x, weight, bias, self.settings)

    def beyond(self, x: Tensor, weight: Tensor, bias: Tensor | None, border: Tensor) -> Tensor:
        """y = W x + b, where x goes on beyond the border with the values `border` [channels]."""
        padding = self.padding(weight)
        if not any(padding):
            return self(x, weight, bias)
        border = border.reshape(-1, *(1,) * (-self.axis - 1))
        return self._call(F.pad(x - border, padding) + border, weight, bias, self._unpadded())

    def response(self, weight: Tensor, constants: Tensor, space: tuple[int, ...]) -> Tensor:
        """What constant channels [channels] add to y, away from the border of a padded convolution: [outputs, places].

        space: the spatial sizes of x, on which it depends where a transposed convolution crops.
        """
        x = constants.reshape(-1, *(1,) * len(space))
        if self._convolves:
            space = tuple(1 + reach for reach in self._reaches(weight))
        settings = self._unpadded() if self._convolves else self.settings
        y = self._call(x.expand(-1, *space)[None], weight, None, settings)
        return y.movedim(self.axis, 0).flatten(1)

    def padding(self, weight: Tensor) -> list[int]:
        """What a convolution adds before and after each spatial dimension, the last one first as in F.pad."""
        if not self._convolves:
            return []
        given = self.settings["padding"]
        if isinstance(given, str):
            reaches = self._reaches(weight) if given == "same" else [0] * (weight.ndim - 2)
            pairs = [(reach // 2, reach - reach // 2) for reach in reaches]
        else:
            pairs = [(size, size) for size in _each(given, weight.ndim - 2)]
        return [size for pair in reversed(pairs) for size in pair]

    @property
    def _convolves(self) -> bool:
        return self.contracted == 1 and "padding" in self.settings

    def _reaches(self, weight: Tensor) -> list[int]:
        """How far the window of a convolution reaches beyond its first element."""
        sizes = weight.shape[2:]
        dilation = _each(self.settings["dilation"], len(sizes))
        return [step * (size - 1) for step, size in zip(dilation, sizes, strict=True)]

    def _unpadded(self) -> dict[str, Any]:
        given = self.settings["padding"]
        return {**self.settings, "padding": "valid" if isinstance(given, str) else [0] * len(given)}

    def _call(self, x: Tensor, weight: Tensor, bias: Tensor | None, settings: Mapping[str, Any]) -> Tensor:
        target = self.node.target
        assert isinstance(target, torch._ops.OpOverload)
        names = _LAYERS[operator_name(target)][:3]
        if bias is None and names[2] == "self":
            bias = x.new_zeros(())  # addmm always adds something
        given = {name: value for name, value in zip(names, (x, weight, bias), strict=True) if name is not None}
        values = {**settings, **given}
        result: Tensor = target(
            *(values[argument.name] for argument in target._schema.arguments if not argument.kwarg_only)
        )
        return result


@dataclass(frozen=True)
class Taker:
    """A tensor that can take what is added to the y of a layer: its name, its sign in y, and the call that reads it."""

    name: str
    sign: int
    at: fx.Node


def taker_of(layer: Layer, tensors: Mapping[str, Tensor]) -> Taker | None:
    """The layer's bias; where it has none, the running mean of the batch norm that alone follows."""
    if layer.bias is not None:
        return Taker(str(layer.bias.target), 1, layer.node)
    if len(layer.node.users) != 1:
        return None
    (after,) = layer.node.users
    if operator_name(after.target) != "aten::batch_norm":
        return None
    norm = bind(after)
    takes = norm["input"] is layer.node and not norm["training"] and is_read(norm["running_mean"], tensors)
    return Taker(str(norm["running_mean"].target), -1, after) if takes else None


def is_read(value: Any, tensors: Mapping[str, Tensor]) -> bool:
    """Whether an argument is a parameter or buffer as it stands."""
    return isinstance(value, fx.Node) and value.op == "get_attr" and str(value.target) in tensors


def _each(value: Any, count: int) -> list[int]:
    return list(value) * count if len(value) == 1 else list(value)
