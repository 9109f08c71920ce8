"""The one table of operators: ONNX name -> how torch computes it.

    @operator("Relu")
    def relu(node: Node, x: Tensor) -> Tensor: ...

A row gets the node and its inputs, None for one that is left out, and gives the output, or a tuple of outputs. Inputs
are tensors but those listed in `known`, which may be numbers (see known.py).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from penjing.onnx_import.known import Known, tensor
from penjing.onnx_import.node import Node

Compute = Callable[..., Any]


@dataclass(frozen=True)
class Row:
    """How an operator is computed; `known` are the places of inputs that may be numbers, None means any.

    when: which of its nodes are computed so.
    """

    compute: Compute
    known: frozenset[int] | None = frozenset()
    when: Callable[[Node], bool] = lambda node: True

    def __call__(self, node: Node, *inputs: Any) -> tuple[Any, ...]:
        """Compute a node; always a tuple of outputs."""
        given = [
            tensor(value) if isinstance(value, Known) and not self.takes_known(i) else value
            for i, value in enumerate(inputs)
        ]
        outputs = self.compute(node, *given)
        return outputs if isinstance(outputs, tuple) else (outputs,)

    def takes_known(self, place: int) -> bool:
        """Whether the input at a place may be numbers."""
        return self.known is None or place in self.known


OPERATORS: dict[str, Row] = {}


def operator(
    *names: str, known: tuple[int, ...] | None = (), when: Callable[[Node], bool] = lambda node: True
) -> Callable[[Compute], Compute]:
    """Give operators their row; known=None: every input may be numbers."""

    def register(function: Compute) -> Compute:
        for name in names:
            OPERATORS[name] = Row(function, None if known is None else frozenset(known), when)
        return function

    return register
