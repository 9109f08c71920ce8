"""Normalisations."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from penjing.onnx_import.node import DTYPES, Node
from penjing.onnx_import.operators.elementwise import convert
from penjing.onnx_import.operators.table import operator


@operator("BatchNormalization")
def batch_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Any:
    """Batch normalisation by running statistics; with training_mode=1 by those of the batch, which are given too."""
    epsilon = node.get("epsilon", 1e-5)
    if not node.get("training_mode", 0):
        return F.batch_norm(x, mean, var, scale, bias, False, 0.0, epsilon)
    momentum = node.get("momentum", 0.9)
    over = [0, *range(2, x.ndim)]
    here, spread = x.mean(over), x.var(over, unbiased=False)
    y = F.batch_norm(x, here, spread, scale, bias, False, 0.0, epsilon)
    running = (momentum * old + (1 - momentum) * new for old, new in ((mean, here), (var, spread)))
    return (y, *running)[: len(node.outputs)]


@operator("LayerNormalization")
def layer_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Any:
    """Layer normalisation over all dimensions from an axis on (Ba et al. 2016, arXiv:1607.06450)."""
    axis = node.get("axis", -1) % x.ndim
    epsilon = node.get("epsilon", 1e-5)
    shape = x.shape[axis:]
    scale = scale if scale.shape == shape else scale.expand(shape)
    if bias is not None and bias.shape != shape:
        bias = bias.expand(shape)
    y = F.layer_norm(x, shape, scale, bias, epsilon)
    if len(node.outputs) == 1:
        return y
    inner = convert(x, DTYPES[node.get("stash_type", 1)])
    over = list(range(axis, x.ndim))
    mean = inner.mean(over, keepdim=True)
    inverse = torch.rsqrt((inner - mean).square().mean(over, keepdim=True) + epsilon)
    return (y, mean, inverse)[: len(node.outputs)]


@operator("RMSNormalization")
def rms_norm(node: Node, x: Tensor, scale: Tensor) -> Tensor:
    """Root mean square normalisation (Zhang and Sennrich 2019, arXiv:1910.07467)."""
    axis = node.get("axis", -1) % x.ndim
    over = list(range(axis, x.ndim))
    inner = convert(x, DTYPES[node.get("stash_type", 1)])
    inverse = torch.rsqrt(inner.square().mean(over, keepdim=True) + node.get("epsilon", 1e-5))
    return convert(inner * inverse, x.dtype) * scale


@operator("InstanceNormalization")
def instance_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Each channel of each sample by its own statistics."""
    return F.instance_norm(x, None, None, scale, bias, True, 0.0, node.get("epsilon", 1e-5))


@operator("GroupNormalization")
def group_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Groups of channels by their statistics (Wu and He 2018, arXiv:1803.08494); scale by group before opset 21."""
    groups = node.get("num_groups")
    if node.opset < 21:
        each = x.shape[1] // groups
        scale, bias = scale.repeat_interleave(each), bias.repeat_interleave(each)
    return F.group_norm(x, groups, scale, bias, node.get("epsilon", 1e-5))


@operator("LRN")
def local_response(node: Node, x: Tensor) -> Tensor:
    """Divide by a power of the sum of squares over channels nearby; of an even number more lie behind."""
    size = node.get("size")
    squares = F.pad(x.square().unsqueeze(1).flatten(3), (0, 0, (size - 1) // 2, size // 2))
    mean = F.avg_pool2d(squares, (size, 1), stride=1).squeeze(1).reshape(x.shape)
    divisor: Tensor = (mean * node.get("alpha", 1e-4) + node.get("bias", 1.0)).pow(node.get("beta", 0.75))
    return x / divisor


@operator("LpNormalization")
def lp_normalization(node: Node, x: Tensor) -> Tensor:
    """Divide by the p-norm along an axis; zero stays zero."""
    norm = torch.linalg.vector_norm(x, node.get("p", 2), node.get("axis", -1), keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)


@operator("MeanVarianceNormalization")
def mean_variance(node: Node, x: Tensor) -> Tensor:
    """Mean 0 and variance 1 over some axes."""
    axes = list(node.get("axes", (0, 2, 3)))
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True).sqrt() + 1e-9)
