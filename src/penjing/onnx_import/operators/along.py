"""Operators that look along an axis and keep the shape."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from penjing.onnx_import.known import Value, numbers
from penjing.onnx_import.node import Node
from penjing.onnx_import.operators.table import operator


@operator("Softmax", "LogSoftmax")
def softmax(node: Node, x: Tensor) -> Tensor:
    """Softmax along an axis; before opset 13 over all dimensions from the axis on."""
    function = F.softmax if node.op == "Softmax" else F.log_softmax
    if node.opset >= 13:
        return function(x, dim=node.get("axis", -1))
    axis = node.get("axis", 1) % x.ndim if x.ndim else 0
    if axis == x.ndim - 1:
        return function(x, dim=axis)
    return function(x.flatten(axis), dim=axis).reshape(x.shape)


@operator("Hardmax")
def hardmax(node: Node, x: Tensor) -> Tensor:
    """One where the first maximum along an axis is, else zero."""
    if node.opset >= 13:
        axis = node.get("axis", -1)
        return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1.0)
    axis = node.get("axis", 1) % x.ndim
    flat = x.flatten(axis)
    return torch.zeros_like(flat).scatter(-1, flat.argmax(-1, keepdim=True), 1.0).reshape(x.shape)


@operator("CumSum", known=(1,))
def cumsum(node: Node, x: Tensor, axis: Value) -> Tensor:
    """Sums of all elements up to each, along an axis."""
    (dim,) = numbers(axis)
    backwards = node.get("reverse", 0)
    x = x.flip(dim) if backwards else x
    y = x.cumsum(dim).to(x.dtype)
    y = y - x if node.get("exclusive", 0) else y
    return y.flip(dim) if backwards else y
