"""Where a graph reads the weights of layers: the places in which a stored weight can stand for the float one."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, fx, nn

from penjing.structure.capture import fetch
from penjing.techniques.quantize.graph import CONVOLUTIONS, LINEAR, aten, module_of

_TRANSPOSED = {aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input}
_ARGUMENTS = {  # operator -> which argument is the weight, and the dimension of it that runs along the outputs
    **dict.fromkeys((*CONVOLUTIONS, LINEAR), (1, 0)),
    **dict.fromkeys(_TRANSPOSED, (1, 1)),
    aten.embedding.default: (0, 0),
}
_RECURRENT = {aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input}


@dataclass(frozen=True)
class Slot:
    """A weight in the graph: the node that reads it, the node that computes with it, its module, its output axis."""

    weight: fx.Node
    reader: fx.Node
    module: str
    axis: int


def weight_slots(module: fx.GraphModule) -> Iterator[Slot]:
    """Every weight of two or more dimensions that an operator with a known output axis reads, in the graph's order.

    A weight that several operators read comes once for each; one that anything else reads too does not come.
    """
    for reader in module.graph.nodes:
        for weight, axis in _read(reader):
            tensor = fetch(module, str(weight.target)) if weight.op == "get_attr" else None
            if not isinstance(tensor, nn.Parameter | Tensor) or tensor.ndim < 2 or not tensor.is_floating_point():
                continue
            if all(weight in dict(_read(user)) for user in weight.users):
                yield Slot(weight, reader, module_of(module, weight, reader), axis)


def _read(node: fx.Node) -> Iterator[tuple[fx.Node, int]]:
    if node.op != "call_function":
        return
    if node.target in _RECURRENT:
        yield from ((weight, 0) for weight in node.args[2] if isinstance(weight, fx.Node))  # type: ignore[union-attr]
    elif node.target in _ARGUMENTS:
        place, axis = _ARGUMENTS[node.target]
        weight = node.args[place]
        if isinstance(weight, fx.Node) and weight.op == "get_attr":
            yield weight, axis
