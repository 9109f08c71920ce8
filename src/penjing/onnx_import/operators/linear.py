"""Products: Gemm, MatMul, Einsum."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from penjing.onnx_import.node import Node
from penjing.onnx_import.operators.table import operator


@operator("Gemm")
def gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """Y = alpha A' B' + beta C, where ' transposes what transA and transB say."""
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    a = a.t() if node.get("transA", 0) else a
    if c is not None and beta != 1:
        c = c * beta
    if node.get("transB", 0) and alpha == 1 and (c is None or c.ndim == 1):
        return F.linear(a, b, c)
    y = a @ (b.t() if node.get("transB", 0) else b)
    y = y if alpha == 1 else y * alpha
    return y if c is None else y + c


@operator("MatMul")
def matmul(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """Y = A B, over the last two dimensions."""
    return torch.matmul(a, b)


@operator("Einsum")
def einsum(node: Node, *inputs: Tensor) -> Any:
    """Sum of products in Einstein's notation."""
    return torch.einsum(node.get("equation").replace(" ", ""), *inputs)
