r"""Bias correction: a layer in int8 gives, on average, what it gave in float.

Rounding weights and inputs moves the mean of each output channel, and what follows adds such shifts up. The bias takes
them back, layer by layer in the order of the graph, so that each is corrected on the inputs that it will get:

    b_c <- b_c + E[y_c] - E[y'_c],

with y the float output of channel c and y' that of the quantised network so far, both before any rectifier. Nagel, van
Baalen, Blankevoort, Welling 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction"
(arXiv:1906.04721), section 4.2, with calibration data in place of batch-norm statistics (their appendix D).
"""

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from penjing.techniques.quantize.calibrate import Inputs
from penjing.techniques.quantize.graph import tensor_of
from penjing.techniques.quantize.insert import DEQUANTIZE


@torch.no_grad()
def correct_biases(
    reference: fx.GraphModule, candidate: fx.GraphModule, layers: frozenset[str], batches: Sequence[Inputs]
) -> fx.GraphModule:
    """Give the quantised graph with corrected biases; layers without a bias stay as they are.

    layers: names of the nodes that run in int8, the same in both graphs. All batches go through the graph together, so
    that one pass is enough: what is held are the activations of all of them that are still to be read.
    """
    corrected = copy.deepcopy(candidate)
    wanted = _means(reference, layers, batches)
    _walk(corrected, batches, lambda node, outputs: _correct(corrected, node, outputs, wanted))
    return corrected


def _correct(module: fx.GraphModule, node: fx.Node, outputs: list[Any], wanted: Mapping[str, Tensor]) -> list[Any]:
    """Move the bias of a layer by what its means are off, in whole steps, and give the outputs that it then has."""
    bias = node.args[2] if node.name in wanted and len(node.args) > 2 else None
    if not (isinstance(bias, fx.Node) and bias.target is DEQUANTIZE):
        return outputs
    stored, scale = (tensor_of(module, argument) for argument in bias.args[:2] if isinstance(argument, fx.Node))
    steps = torch.round((wanted[node.name] - _mean(node, outputs)) / scale.double())
    stored += steps.to(stored.dtype)
    shift = (steps * scale.double()).to(outputs[0].dtype)
    shape = [-1 if dim == _channel(node, outputs[0]) else 1 for dim in range(outputs[0].ndim)]
    return [output + shift.reshape(shape) for output in outputs]


def _means(module: fx.GraphModule, layers: frozenset[str], batches: Sequence[Inputs]) -> dict[str, Tensor]:
    """Mean output of each channel of each layer over all batches and positions, float64."""
    found: dict[str, Tensor] = {}

    def note(node: fx.Node, outputs: list[Any]) -> list[Any]:
        if node.name in layers:
            found[node.name] = _mean(node, outputs)
        return outputs

    _walk(module, batches, note)
    return found


def _mean(node: fx.Node, outputs: Sequence[Tensor]) -> Tensor:
    dim = _channel(node, outputs[0])
    others = [each for each in range(outputs[0].ndim) if each != dim]
    count = sum(output.numel() for output in outputs) // outputs[0].shape[dim]
    return torch.stack([output.double().sum(others) for output in outputs]).sum(0) / count


def _channel(node: fx.Node, output: Tensor) -> int:
    """The dimension of a layer's output that its bias runs along."""
    return output.ndim - 1 if node.target is torch.ops.aten.linear.default else 1


def _walk(module: fx.GraphModule, batches: Sequence[Inputs], see: Any) -> None:
    """Run all batches through a graph, node by node; `see` is shown each node with its outputs and may replace them."""
    machine = fx.Interpreter(module)
    inputs = [iter(batch) for batch in batches]
    values: dict[fx.Node, list[Any]] = {}
    reads = Counter(argument for node in module.graph.nodes for argument in node.all_input_nodes)
    for node in module.graph.nodes:
        if node.op == "output":
            return
        if node.op == "placeholder":
            outputs = [next(each) for each in inputs]
        else:
            outputs = [_outputs(machine, node, {read: values[read][i] for read in values}) for i in range(len(inputs))]
        values[node] = see(node, outputs)
        for argument in node.all_input_nodes:
            reads[argument] -= 1
            if not reads[argument]:
                del values[argument]


def _outputs(machine: fx.Interpreter, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
    return getattr(machine, node.op)(node.target, args, kwargs)
