"""LSTMs in integers: weights in int8, the input and, at each step, the state quantised as they come.

ONNX Runtime has one kernel for this (DynamicQuantizeLSTM), and none for a GRU.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from penjing.recipe import Grid
from penjing.structure.rules import bind
from penjing.techniques.quantize.graph import aten, put, tensor_of
from penjing.techniques.quantize.weights import fit, quantize

LSTM = aten.lstm.input
DYNAMIC_LSTM = torch.ops.penjing.dynamic_lstm.default
_GATES = (0, 3, 1, 2)
"""Where torch has what ONNX puts first: input, output, forget, cell of input, forget, cell, output."""


def can_be_dynamic(node: fx.Node) -> bool:
    """Whether a node is an LSTM without projections that alone reads its weights."""
    if node.target is not LSTM:
        return False
    call = bind(node)
    tensors = call["num_layers"] * _directions(call["bidirectional"]) * _tensors(call["has_biases"])
    return len(call["params"]) == tensors and all(
        each.op == "get_attr" and len(each.users) == 1 for each in call["params"]
    )


def make_lstm_dynamic(module: fx.GraphModule, node: fx.Node, grid: Grid) -> None:
    """Let an LSTM compute in integers, in place."""
    call = bind(node)
    params, count = list(call["params"]), _tensors(call["has_biases"])
    cells = [params[i : i + count] for i in range(0, len(params), count)]  # w_ih, w_hh, and b_ih, b_hh
    directions = _directions(call["bidirectional"])
    weights, scales, biases = [], [], []
    with module.graph.inserting_before(node):
        for layer in range(call["num_layers"]):
            here = list(zip(*cells[layer * directions : (layer + 1) * directions], strict=True))
            for nodes in here[:2]:
                stored, scale = _stored([tensor_of(module, each) for each in nodes], grid)
                weights.append(put(module, f"{nodes[0].target}_quantized", stored))
                scales.append(put(module, f"{nodes[0].target}_scale", scale))
            if call["has_biases"]:
                both = [torch.stack([_reordered(tensor_of(module, each)) for each in nodes]) for nodes in here[2:]]
                biases.append(put(module, str(here[2][0].target), torch.cat(both, 1)))
    node.target = DYNAMIC_LSTM
    node.args = (call["input"], weights, scales, biases, list(call["hx"]), call["bidirectional"], call["batch_first"])
    node.kwargs = {}


def _directions(bidirectional: bool) -> int:
    return 2 if bidirectional else 1


def _tensors(has_biases: bool) -> int:
    """Tensors of one layer in one direction."""
    return 4 if has_biases else 2


def _stored(matrices: Sequence[Tensor], grid: Grid) -> tuple[Tensor, Tensor]:
    """Steps [directions, inputs, 4 hidden] and scales [directions, 4 hidden] of weights [4 hidden, inputs]."""
    steps, scales = [], []
    for matrix in map(_reordered, matrices):
        params = fit(matrix, grid)
        steps.append(quantize(matrix, params, grid).T)
        scales.append(params.scale.flatten().expand(len(matrix)))
    return torch.stack(steps).contiguous(), torch.stack(scales).contiguous()


def _reordered(values: Tensor) -> Tensor:
    """Rows of four gates in ONNX's order."""
    gates = values.detach().chunk(len(_GATES))
    return torch.cat([gates[i] for i in _GATES])
