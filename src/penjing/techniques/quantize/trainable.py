"""A quantised graph as one that trains, and back: integers become parameters behind rounding that passes gradients.

The trained form computes what the stored form computes, so that its score while training is that of the file. A weight
has the name that it had before it was stored, and masks of that name hold.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from penjing.errors import RecipeError
from penjing.structure import Captured, GraphModel
from penjing.structure.rules import bind
from penjing.techniques.quantize import ops
from penjing.techniques.quantize.fake import Rule, fake_bias, fake_dynamic
from penjing.techniques.quantize.graph import aten, put, tensor_of, without_unread
from penjing.techniques.quantize.insert import DEQUANTIZE, QUANTIZE
from penjing.techniques.quantize.layers import limits_of, weight_behind
from penjing.techniques.quantize.pack import DYNAMIC_LINEAR, UNPACK

Write = tuple[str, Callable[[], Tensor]]
"""The name of a stored tensor, and what it is to hold once training has ended."""


class Trainable:
    """The trained form of a captured graph.

    `model` is what trains; `stored()` gives, by name, what each tensor of the quantised model then holds.
    """

    def __init__(self, captured: Captured, rule: Rule) -> None:
        self._module, self._rule = captured.module, rule
        self._latents: dict[str, tuple[fx.Node, Tensor]] = {}  # by the name of a weight: what trains, where it began
        self._scales: dict[str, nn.Parameter] = {}
        self._writes: list[Write] = []
        biases = []
        for node in list(self._module.graph.nodes):
            if node.target is DEQUANTIZE and node.args[0].target is QUANTIZE:
                self._activation(node)
            elif node.target is DEQUANTIZE and tensor_of(self._module, node.args[0]).dtype == torch.int32:
                biases.append(node)  # after the scales that they are made of
            elif node.target is DEQUANTIZE or node.target is UNPACK:
                self._weight(node)
            elif node.target is DYNAMIC_LINEAR:
                self._dynamic(node)
        for node in biases:
            self._bias(node)
        self.model = GraphModel.of(replace(captured, module=without_unread(self._module)))

    @torch.no_grad()
    def stored(self) -> dict[str, Tensor]:
        """What the quantised model is to hold, by the names of its buffers."""
        return {name: value() for name, value in self._writes}

    def _weight(self, node: fx.Node) -> None:
        """Read a weight through rounding: of a layer in integers, or of one that unpacks it."""
        whole, scale, zero = node.args[:3]
        ints, steps, name = self._tensor(whole), self._tensor(scale), str(whole.target)
        if ints.dtype not in (torch.int8, torch.uint8):
            raise RecipeError(
                f"Finetune after Quantize trains integers, and {name!r} is {ints.dtype}; train before it is quantised"
            )
        low, high = limits_of(name, ints.dtype)
        offset = torch.zeros_like(steps) if zero is None else self._tensor(zero).float()
        real = (ints.float() - _aligned(offset, ints)) * _aligned(steps, ints)
        with self._module.graph.inserting_before(node):
            start = self._start(real, steps, offset, (low, high))
            latent, scale_now = self._latent(name, start), self._scale(scale, learns=self._rule.learns_weight_scale)
            offset_now = put(self._module, f"{name}_offset", offset)
            args = (latent, scale_now, offset_now, low, high)
            fake = self._module.graph.call_function(self._rule.weight, args)
            if node.target is UNPACK and list(real.shape) != list(node.args[3]):
                fake = self._module.graph.call_function(aten.reshape.default, (fake, node.args[3]))
        values, step = self._tensor(latent), self._scales[str(scale.target)]

        def integers() -> Tensor:
            on_grid = self._rule.weight(values, step, offset, low, high)
            return torch.round(on_grid / _aligned(step.abs(), ints) + _aligned(offset, ints)).to(ints.dtype)

        self._writes.append((name, integers))
        node.replace_all_uses_with(fake)

    def _activation(self, node: fx.Node) -> None:
        """Round an activation as it passes, with its range or one that is learnt."""
        x, scale, zero = node.args[0].args[:3]  # type: ignore[union-attr]
        dtype = self._tensor(zero).dtype
        limits = torch.iinfo(dtype)
        with self._module.graph.inserting_before(node):
            scale_now = self._scale(scale, learns=self._rule.learns_activation_scale)
            zero_now = self._scale(zero, learns=self._rule.learns_zero)
            fake = self._module.graph.call_function(
                self._rule.activation, (x, scale_now, zero_now, limits.min, limits.max)
            )
        fake.meta["val"] = node.meta.get("val")
        held = self._scales[str(zero.target)]
        self._writes.append((str(zero.target), lambda: held.round().clamp(limits.min, limits.max).to(dtype)))
        node.replace_all_uses_with(fake)

    def _bias(self, node: fx.Node) -> None:
        """Round a bias with the scale of the products that it is added to."""
        (layer,) = node.users
        call = bind(layer)
        x, weight = call["input"], call["weight"]
        name, scale_name = str(node.args[0].target), str(node.args[1].target)  # type: ignore[union-attr]
        scale_x, scale_w = x.args[1], weight.args[1]  # of what rounds them
        with self._module.graph.inserting_before(layer):
            latent = self._latent(name, ops.dequantize_linear(*map(self._tensor, node.args[:3]), 0))  # type: ignore[arg-type]
            fake = self._module.graph.call_function(fake_bias, (latent, scale_x, scale_w))
        values, sx, sw = map(self._tensor, (latent, scale_x, scale_w))

        def scale() -> Tensor:
            return (sx.abs() * sw.abs()).expand(len(values)).float()

        def integers() -> Tensor:
            return torch.round(fake_bias(values.double(), sx, sw) / (sx.abs() * sw.abs()).double()).to(torch.int32)

        self._writes += [(name, integers), (scale_name, scale)]
        node.replace_all_uses_with(fake)

    def _dynamic(self, node: fx.Node) -> None:
        """A linear that quantises its input as it comes, as two roundings and a float linear."""
        x, whole, scale, bias = node.args
        name, ints, steps = str(whole.target), self._tensor(whole), self._tensor(scale)
        low, high = limits_of(name, ints.dtype)
        zero = torch.zeros_like(steps)
        with self._module.graph.inserting_before(node):
            latent = self._latent(name, self._start(ints.T.float() * steps[:, None], steps, zero, (low, high)))
            scale_now = self._scale(scale, learns=self._rule.learns_weight_scale)
            offset = put(self._module, f"{name}_offset", zero)
            fake = self._module.graph.call_function(self._rule.weight, (latent, scale_now, offset, low, high))
            rounded = self._module.graph.call_function(fake_dynamic, (x,))
            linear = self._module.graph.call_function(aten.linear.default, (rounded, fake, bias))
        values, step = self._tensor(latent), self._scales[str(scale.target)]

        def integers() -> Tensor:
            on_grid = self._rule.weight(values, step, zero, low, high)
            return torch.round(on_grid / step.abs()[:, None]).to(ints.dtype).T.contiguous()

        self._writes.append((name, integers))
        node.replace_all_uses_with(linear)

    def _tensor(self, node: Any) -> Tensor:
        return tensor_of(self._module, node)

    def _start(self, real: Tensor, scale: Tensor, zero: Tensor, limits: tuple[int, int]) -> Tensor:
        """What the rule rounds to a weight."""
        return real if self._rule.start is None else self._rule.start(real, scale, zero, *limits)

    def _latent(self, stored: str, real: Tensor) -> fx.Node:
        """Read what trains in the place of a stored tensor; calls of one module that store the same train the same."""
        name = weight_behind(stored)
        known = self._latents.get(name)
        if known is not None and torch.equal(known[1], real):
            return self._module.graph.get_attr(str(known[0].target))
        node = put(self._module, name, nn.Parameter(real.clone()))
        self._latents.setdefault(name, (node, real))
        return node

    def _scale(self, node: fx.Node, *, learns: bool) -> fx.Node:
        """Read a scale or zero point as a parameter; a stored one that several read is one parameter."""
        name = str(node.target)
        if name not in self._scales:
            value = self._tensor(node).float().clone()
            held = self._scales[name] = nn.Parameter(value, requires_grad=learns)
            if "zero_point" not in name:
                self._writes.append((name, lambda: held.abs().clone()))
            return put(self._module, f"{name}_learnt", held)
        return self._module.graph.get_attr(f"{name}_learnt")


def _aligned(values: Tensor, like: Tensor) -> Tensor:
    return ops.along(values, like.ndim, 0) if values.ndim == 1 else values
