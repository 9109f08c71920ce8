"""Nodes with weights of their own as layers of torch.nn, so that they have the names and modes that people know.

MatMul + Add      nn.Linear            Conv      nn.Conv2d
Gather            nn.Embedding         BatchNormalization      nn.BatchNorm2d, in training by the batch
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from penjing.onnx_import.node import Node
from penjing.onnx_import.recurrent import plain, recurrent_layer

_CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_NORM: dict[int, Any] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


@dataclass(frozen=True)
class Layer:
    """A module that computes a node from its inputs at `places`; `weights` are the constants that it takes over."""

    module: nn.Module
    weights: tuple[str, ...]
    places: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Weights:
    """The constants of a graph, how often each is read, and the ranks of its tensors."""

    tensors: Mapping[str, Tensor]
    uses: Counter[str]
    ranks: Mapping[str, int]

    def own(self, node: Node, place: int) -> Tensor | None:
        """The constant at a place of a node that reads it alone."""
        name = node.inputs[place] if place < len(node.inputs) else ""
        found = self.tensors.get(name)
        return found if found is not None and self.uses[name] == 1 and found.is_floating_point() else None

    def given(self, node: Node, place: int) -> bool:
        """Whether a node has an input at a place."""
        return place < len(node.inputs) and bool(node.inputs[place])

    def owns(self, node: Node, *places: int) -> bool:
        """Whether each of these inputs is left out, or a constant of the node alone."""
        return all(not self.given(node, place) or self.own(node, place) is not None for place in places)


def layer_of(node: Node, weights: Weights) -> Layer | None:
    """The layer that computes a node; None where it is no layer, or shares a weight with another node."""
    make = _LAYERS.get(node.op)
    if make is None or node.domain or any(name in weights.tensors for name in _data(node)):
        return None
    return make(node, weights)


def bias_of(node: Node, layer: Layer, weights: Weights) -> str | None:
    """The constant that an Add gives to the output of a linear layer without bias, as its bias."""
    module: Any = layer.module
    linear = isinstance(module, nn.Linear) and module.bias is None
    if node.op != "Add" or node.domain or not linear:
        return None
    for place in (0, 1):
        value = weights.own(node, place)
        if value is not None and value.shape == (module.out_features,):
            module.bias = nn.Parameter(value)
            return node.inputs[place]
    return None


def _data(node: Node) -> tuple[str, ...]:
    return node.inputs[1:2] if node.op == "Gather" else node.inputs[:1]


def _filled(module: nn.Module, **tensors: Tensor | None) -> nn.Module:
    """A module that was made without storage, with these weights."""
    for name, value in tensors.items():
        if value is not None:
            if name in module._buffers:
                module._buffers[name] = value
            else:
                setattr(module, name, nn.Parameter(value))
    return module


def _conv(node: Node, weights: Weights) -> Layer | None:
    weight = weights.own(node, 1)
    if weight is None or not weights.owns(node, 2) or weight.ndim - 2 not in _CONV:
        return None
    rank = weight.ndim - 2
    pads = node.get("pads", (0,) * (2 * rank)) if node.get("auto_pad", "NOTSET") == "NOTSET" else (0,) * (2 * rank)
    if node.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or pads[:rank] != pads[rank:]:
        return None
    transposed = node.op == "ConvTranspose"
    if transposed and node.get("output_shape") is not None:
        return None
    ones, groups = (1,) * rank, node.get("group", 1)
    widths = (weight.shape[0], weight.shape[1] * groups) if transposed else (weight.shape[1] * groups, weight.shape[0])
    more = {"output_padding": node.get("output_padding", (0,) * rank)} if transposed else {}
    strides, dilations = node.get("strides", ones), node.get("dilations", ones)
    if transposed and any(a >= max(b, c) for a, b, c in zip(more["output_padding"], strides, dilations, strict=True)):
        return None
    module = (_TRANSPOSED if transposed else _CONV)[rank](
        *widths,
        tuple(weight.shape[2:]),
        stride=strides,
        padding=pads[:rank],
        dilation=dilations,
        groups=groups,
        bias=weights.given(node, 2),
        device="meta",
        **more,
    )
    return Layer(_filled(module, weight=weight, bias=weights.own(node, 2)), node.inputs[1:])


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Module:
    module = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    return _filled(module, weight=weight, bias=bias)


def _matmul(node: Node, weights: Weights) -> Layer | None:
    weight = weights.own(node, 1)
    if weight is None or weight.ndim != 2:
        return None
    return Layer(_linear(weight.t().contiguous(), None), node.inputs[1:])


def _gemm(node: Node, weights: Weights) -> Layer | None:
    weight, bias = weights.own(node, 1), weights.own(node, 2)
    plain = node.get("alpha", 1.0) == node.get("beta", 1.0) == 1.0 and not node.get("transA", 0)
    if weight is None or not plain or not weights.owns(node, 2):
        return None
    weight = weight if node.get("transB", 0) else weight.t().contiguous()
    if bias is not None:
        if bias.numel() != weight.shape[0]:
            return None
        bias = bias.reshape(-1)
    return Layer(_linear(weight, bias), node.inputs[1:])


def _batch_norm(node: Node, weights: Weights) -> Layer | None:
    rank = weights.ranks.get(node.inputs[0])
    if rank not in _NORM or not weights.owns(node, 1, 2, 3, 4) or len(node.outputs) > 1 or node.get("training_mode", 0):
        return None
    scale, bias, mean, var = (weights.own(node, place) for place in (1, 2, 3, 4))
    if any(value is None for value in (scale, bias, mean, var)):
        return None
    assert scale is not None
    momentum = 1 - node.get("momentum", 0.9)
    module = _NORM[rank](len(scale), eps=node.get("epsilon", 1e-5), momentum=momentum, device="meta")
    counter = torch.tensor(0)
    _filled(module, weight=scale, bias=bias, running_mean=mean, running_var=var, num_batches_tracked=counter)
    return Layer(module.eval(), node.inputs[1:])


def _layer_norm(node: Node, weights: Weights) -> Layer | None:
    scale, bias = weights.own(node, 1), weights.own(node, 2)
    rank = weights.ranks.get(node.inputs[0])
    axis = node.get("axis", -1)
    if scale is None or not weights.owns(node, 2) or len(node.outputs) > 1 or (axis >= 0 and rank is None):
        return None
    spanned = -axis if axis < 0 else rank - axis
    if scale.ndim != spanned or (bias is not None and bias.shape != scale.shape):
        return None
    module = nn.LayerNorm(tuple(scale.shape), node.get("epsilon", 1e-5), bias=bias is not None, device="meta")
    return Layer(_filled(module, weight=scale, bias=bias), node.inputs[1:])


def _embedding(node: Node, weights: Weights) -> Layer | None:
    table = weights.own(node, 0)
    if table is None or table.ndim != 2 or node.get("axis", 0) != 0:
        return None
    module = nn.Embedding(table.shape[0], table.shape[1], device="meta")
    return Layer(_filled(module, weight=table), node.inputs[:1], (1,))


def _prelu(node: Node, weights: Weights) -> Layer | None:
    slope, rank = weights.own(node, 1), weights.ranks.get(node.inputs[0])
    if slope is None or rank is None or rank < 2:
        return None
    by_channel = slope.ndim == rank - 1 and slope.numel() == slope.shape[0]
    if not by_channel and slope.numel() != 1:
        return None
    return Layer(_filled(nn.PReLU(slope.numel(), device="meta"), weight=slope.reshape(-1)), node.inputs[1:])


def _recurrent(node: Node, weights: Weights) -> Layer | None:
    w, r, b = (weights.own(node, place) for place in (1, 2, 3))
    if w is None or r is None or not weights.owns(node, 3) or not plain(node):
        return None
    places = (0, 5, 6) if node.op == "LSTM" else (0, 5)
    return Layer(recurrent_layer(node, w, r, b).eval(), node.inputs[1:4], places)


_LAYERS: dict[str, Callable[[Node, Weights], Layer | None]] = {
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    "Conv": _conv,
    "ConvTranspose": _conv,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "Gather": _embedding,
    "PRelu": _prelu,
}
