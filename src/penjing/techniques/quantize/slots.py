"""Where a graph reads the weights of layers: the places in which a stored weight can stand for the float one."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import fx

from penjing.techniques.quantize.graph import CONVOLUTIONS, LINEAR, aten, module_of, tensor_of

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

    @property
    def path(self) -> str:
        """The name of the tensor."""
        return str(self.weight.target)


def weight_slots(module: fx.GraphModule) -> Iterator[Slot]:
    """Every weight of two or more dimensions that an operator with a known output axis reads, in the graph's order.

    A weight that several operators read comes once for each; one that anything else reads too does not come.
    """
    for reader in module.graph.nodes:
        for weight, axis in _read(reader):
            tensor = tensor_of(module, weight)
            known = tensor.ndim >= 2 and all(weight in dict(_read(user)) for user in weight.users)
            if known and tensor.is_floating_point():
                yield Slot(weight, reader, module_of(module, weight, reader), axis)


def _read(node: fx.Node) -> Iterator[tuple[fx.Node, int]]:
    """The constants that a node reads as weights, each with its output axis."""
    weights: list[Any] = []
    axis = 0
    if node.target in _RECURRENT:
        weights = list(node.args[2])  # type: ignore[arg-type]
    elif node.target in _ARGUMENTS:
        place, axis = _ARGUMENTS[node.target]
        weights = [node.args[place]]
    yield from ((each, axis) for each in weights if isinstance(each, fx.Node) and each.op == "get_attr")
