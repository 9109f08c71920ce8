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
from penjing.techniques.quantize.insert import CLIP, DEQUANTIZE, QUANTIZE
from penjing.techniques.quantize.layers import limits_of, weight_behind
from penjing.techniques.quantize.pack import DYNAMIC_LINEAR, UNPACK
from penjing.techniques.quantize.recurrent import DYNAMIC_LSTM

_FOLDED = "folded_"  # in the name of a weight that took a batch norm in, which leaves zeros where they are

Write = tuple[str, Callable[[], Tensor]]
"""The name of a stored tensor, and what it is to hold once training has ended."""


class Trainable:
    """The trained form of a captured graph.

    `model` is what trains; `stored()` gives, by name, what each tensor of the quantised model then holds.
    """

    def __init__(self, captured: Captured, rule: Rule) -> None:
        self._module, self._rule = captured.module, rule
        self._latents: dict[str, tuple[fx.Node, Tensor]] = {}  # by the name of a weight: what trains, where it began
        self._learnt: dict[str, fx.Node] = {}  # by the weight or activation whose scale it is
        self._writes: list[Write] = []
        biases = []
        for node in list(self._module.graph.nodes):
            if node.target is DEQUANTIZE and _arguments(node)[0].target is QUANTIZE:
                self._activation(node)
            elif node.target is DEQUANTIZE and self._tensor(_arguments(node)[0]).dtype == torch.int32:
                biases.append(node)  # after the scales that they are made of
            elif node.target is DEQUANTIZE or node.target is UNPACK:
                self._weight(node)
            elif node.target is DYNAMIC_LINEAR:
                self._dynamic(node)
            elif node.target is DYNAMIC_LSTM:
                raise RecipeError(
                    "Finetune after Quantize trains no LSTM in int8-dynamic; give it 'w8' by overrides, or train before"
                )
        for node in biases:
            self._bias(node)
        self.model = GraphModel.of(replace(captured, module=without_unread(self._module)))

    @torch.no_grad()
    def stored(self) -> dict[str, Tensor]:
        """What the quantised model is to hold, by the names of its buffers."""
        return {name: value() for name, value in self._writes}

    def _weight(self, node: fx.Node) -> None:
        """Read a weight through rounding: of a layer in integers, or of one that unpacks it."""
        whole, scale, zero, *rest = _arguments(node)
        with self._module.graph.inserting_before(node):
            fake = self._rounded(whole, scale, zero)
            shape = self._tensor(whole).shape
            if node.target is UNPACK and list(shape) != list(rest[0]):
                fake = self._module.graph.call_function(aten.reshape.default, (fake, rest[0]))
        node.replace_all_uses_with(fake)

    def _dynamic(self, node: fx.Node) -> None:
        """A linear that quantises its input as it comes, as two roundings and a float linear."""
        x, whole, scale, bias = _arguments(node)
        with self._module.graph.inserting_before(node):
            fake = self._rounded(whole, scale, None, transposed=True)
            rounded = self._module.graph.call_function(fake_dynamic, (x,))
            linear = self._module.graph.call_function(aten.linear.default, (rounded, fake, bias))
        node.replace_all_uses_with(linear)

    def _rounded(self, whole: fx.Node, scale: fx.Node, zero: fx.Node | None, *, transposed: bool = False) -> fx.Node:
        """Read what trains in the place of a stored weight, rounded, at the current point of the graph."""
        ints, steps, name = self._tensor(whole), self._tensor(scale), str(whole.target)
        if ints.dtype not in (torch.int8, torch.uint8):
            raise RecipeError(
                f"Finetune after Quantize trains integers, and {name!r} is {ints.dtype}; train before it is quantised"
            )
        outputs_first = ints.T if transposed else ints
        low, high = limits_of(name, ints.dtype)
        offset = torch.zeros_like(steps) if zero is None else self._tensor(zero).float()
        real = (outputs_first.float() - _aligned(offset, ints)) * _aligned(steps, ints)
        start = real if self._rule.start is None else self._rule.start(real, steps, offset, low, high)
        latent = self._latent(name, start)
        scale_now = self._scale(scale, learns=self._rule.learns_weight_scale, of=latent)
        offset_now = put(self._module, f"{name}_offset", offset)
        values, step = self._tensor(latent), self._tensor(scale_now)

        def integers() -> Tensor:
            on_grid = self._rule.weight(values, step, offset, low, high)
            found = torch.round(on_grid / _aligned(step.abs(), ints) + _aligned(offset, ints)).to(ints.dtype)
            return found.T.contiguous() if transposed else found

        self._writes.append((name, integers))
        return self._module.graph.call_function(self._rule.weight, (latent, scale_now, offset_now, low, high))

    def _activation(self, node: fx.Node) -> None:
        """Round an activation as it passes, with its range or one that is learnt."""
        x, scale, zero, _ = _arguments(_arguments(node)[0])
        dtype = self._tensor(zero).dtype
        low, high = torch.iinfo(dtype).min, torch.iinfo(dtype).max
        if x.target is CLIP:
            x, *_, bits = _arguments(x)
            high = 2**bits - 1
        with self._module.graph.inserting_before(node):
            scale_now = self._scale(scale, learns=self._rule.learns_activation_scale)
            zero_now = self._learning(zero, str(zero.target), learns=self._rule.learns_zero)
            fake = self._module.graph.call_function(self._rule.activation, (x, scale_now, zero_now, low, high))
        fake.meta["val"] = node.meta.get("val")
        held = self._tensor(zero_now)
        self._writes.append((str(zero.target), lambda: held.round().clamp(low, high).to(dtype)))
        node.replace_all_uses_with(fake)

    def _bias(self, node: fx.Node) -> None:
        """Round a bias with the scale of the products that it is added to."""
        (layer,) = node.users
        call = bind(layer)
        x, weight = call["input"], call["weight"]
        steps, size, zero, _ = _arguments(node)
        name, scale_name = str(steps.target), str(size.target)
        scale_x, scale_w = _arguments(x)[1], _arguments(weight)[1]  # of what rounds them
        with self._module.graph.inserting_before(layer):
            real = ops.dequantize_linear(*map(self._tensor, (steps, size, zero)), 0)
            latent = self._latent(name, real)
            fake = self._module.graph.call_function(fake_bias, (latent, scale_x, scale_w))
        values, sx, sw = map(self._tensor, (latent, scale_x, scale_w))

        def scale() -> Tensor:
            return (sx.abs() * sw.abs()).expand(len(values)).float()

        def integers() -> Tensor:
            return torch.round(fake_bias(values.double(), sx, sw) / (sx.abs() * sw.abs()).double()).to(torch.int32)

        self._writes += [(name, integers), (scale_name, scale)]
        node.replace_all_uses_with(fake)

    def _tensor(self, node: Any) -> Tensor:
        return tensor_of(self._module, node)

    def _latent(self, stored: str, real: Tensor) -> fx.Node:
        """Read what trains in the place of a stored tensor; calls of one module that store the same train the same."""
        name = weight_behind(stored).replace(_FOLDED, "")
        known = self._latents.get(name)
        if known is not None and torch.equal(known[1], real):
            return self._module.graph.get_attr(str(known[0].target))
        node = put(self._module, name, nn.Parameter(real.clone()))
        self._latents.setdefault(name, (node, real))
        return node

    def _scale(self, node: fx.Node, *, learns: bool, of: fx.Node | None = None) -> fx.Node:
        """Read a scale as what trains in its place; `of`: of which weight it is, whose calls share it."""
        name = str(node.target)
        learnt = self._learning(node, name if of is None else f"{of.target}_scale", learns=learns)
        held = self._tensor(learnt)
        self._writes.append((name, lambda: held.abs().clone()))
        return learnt

    def _learning(self, node: fx.Node, owner: str, *, learns: bool) -> fx.Node:
        """Read a stored number as a parameter, one for each owner."""
        if owner not in self._learnt:
            new = nn.Parameter(self._tensor(node).float().clone(), requires_grad=learns)
            self._learnt[owner] = put(self._module, f"{node.target}_learnt", new)
        return self._module.graph.get_attr(str(self._learnt[owner].target))


def _arguments(node: fx.Node) -> tuple[Any, ...]:
    return tuple(node.args)


def _aligned(values: Tensor, like: Tensor) -> Tensor:
    return ops.along(values, like.ndim, 0) if values.ndim == 1 else values
