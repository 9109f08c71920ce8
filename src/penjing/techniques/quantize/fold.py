"""Fold batch normalisation into the convolution or linear before it, so that the two run as one operator."""

import torch
from torch import Tensor, fx, nn

from penjing.techniques.quantize.graph import aten, only_user, put, tensor_of

BATCH_NORM = aten.batch_norm.default
FOLDABLE = frozenset(
    {aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.conv1d.padding, aten.conv2d.padding}
    | {aten.conv3d.padding, aten.linear.default}
)


def folded(
    weight: Tensor,
    bias: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    r"""Weight and bias that do the work of both: W' = W g, b' = (b - mean) g + beta with g = gamma / sqrt(var + eps).

    weight: [out, ...]; all else [out]. Computed in float64, given back in the type of the weight.

    >>> one = torch.ones(1)
    >>> folded(torch.ones(1, 1), None, 2 * one, one, 3 * one, 4 * one, 0.0)
    (tensor([[1.]]), tensor([-2.]))
    """
    gain = (var.double() + eps).rsqrt()
    if gamma is not None:
        gain = gain * gamma.double()
    shift = (0 if bias is None else bias.double()) - mean.double()
    new_bias = shift * gain + (0 if beta is None else beta.double())
    new_weight = weight.double() * gain.view(-1, *[1] * (weight.ndim - 1))
    return new_weight.to(weight.dtype), new_bias.to(weight.dtype)


def fold_batch_norms(module: fx.GraphModule) -> int:
    """Fold in the graph wherever a batch norm alone reads a convolution or a linear; give the number folded."""
    count = 0
    for norm in list(module.graph.nodes):
        layer = norm.args[0] if norm.target is BATCH_NORM else None
        if isinstance(layer, fx.Node) and _foldable(layer, norm):
            _fold(module, layer, norm)
            count += 1
    module.graph.eliminate_dead_code()
    module.recompile()
    return count


def _foldable(layer: fx.Node, norm: fx.Node) -> bool:
    if layer.target not in FOLDABLE or only_user(layer) is not norm or norm.args[3] is None or norm.args[5]:
        return False  # also where the norm uses the statistics of the batch
    if layer.target is aten.linear.default and layer.meta["val"].ndim != 2:
        return False  # there the norm's channels are not the linear's outputs
    return all(
        operand is None or (isinstance(operand, fx.Node) and operand.op == "get_attr") for operand in layer.args[1:3]
    )


def _fold(module: fx.GraphModule, layer: fx.Node, norm: fx.Node) -> None:
    def read(node: object) -> Tensor | None:
        return tensor_of(module, node) if isinstance(node, fx.Node) else None

    weight_node = layer.args[1]
    bias_node = layer.args[2] if len(layer.args) > 2 else None
    gamma, beta, mean, var = (read(node) for node in norm.args[1:5])
    weight = read(weight_node)
    assert isinstance(weight_node, fx.Node)
    assert weight is not None
    assert mean is not None
    assert var is not None
    new_weight, new_bias = folded(weight, read(bias_node), gamma, beta, mean, var, float(norm.args[7]))  # type: ignore[arg-type]
    path = str(weight_node.target).rpartition(".")[0]
    with torch.no_grad(), module.graph.inserting_before(layer):
        new_nodes = [
            put(module, f"{path}.folded_{name}".lstrip("."), nn.Parameter(value, requires_grad=False))
            for name, value in (("weight", new_weight), ("bias", new_bias))
        ]
    layer.args = (layer.args[0], *new_nodes, *layer.args[3:])
    norm.replace_all_uses_with(layer)
    module.graph.erase_node(norm)
