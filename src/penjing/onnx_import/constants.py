"""The constants of a graph: initializers, Constant nodes, and what is computed from constants alone."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import onnx
import torch
from torch import Tensor

from penjing.onnx_import.known import LARGEST, Known
from penjing.onnx_import.node import Node, read_tensor
from penjing.onnx_import.operators import OPERATORS
from penjing.onnx_import.operators.indexing import constant_value

_FOLDED = {"Identity", "Cast", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "DequantizeLinear", "ConstantOfShape"}
_SCALED = {"Resize", "Upsample", "OneHot"}  # their floats are numbers: scales, and what is on and off
# Operator -> the places of inputs that are weights where they are constant. The others hold means, bounds and masks.
_HARD: dict[str, tuple[int, ...]] = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "Einsum": (0, 1, 2, 3),
    "BatchNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "RMSNormalization": (1,),
    "PRelu": (1,),
}
_SOFT: dict[str, tuple[int, ...]] = {
    "Add": (0, 1),
    "Mul": (0, 1),
    "Gather": (0,),
    "Concat": tuple(range(64)),
    **dict.fromkeys(
        ("Expand", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Cast", "Identity", "Tile", "Slice"), (0,)
    ),
}


@dataclass
class Constants:
    """Tensors by name, and the name that each had in the file."""

    tensors: dict[str, Tensor]
    origin: dict[str, str]

    @classmethod
    def of(cls, initializers: Iterable[tuple[str, Tensor]]) -> "Constants":
        """Those that a file holds."""
        tensors = dict(initializers)
        return cls(tensors, {name: name for name in tensors})

    def fold(self, nodes: Sequence[Node], outputs: Iterable[str]) -> list[Node]:
        """Take up Constant nodes and what follows from constants alone; the nodes that are left.

        A weight that several nodes read is not folded, so that it stays one parameter.
        """
        uses = count_uses(nodes, outputs)
        left = []
        for node in nodes:
            given = [name for name in node.inputs if name]
            if node.op == "Constant" and not node.domain:
                result = constant_value(node)
                source = node.outputs[0]
                assert isinstance(result, Tensor)
            elif (
                node.op in _FOLDED
                and not node.domain
                and all(name in self.tensors for name in given)
                and (not given or uses[given[0]] == 1 or node.op == "DequantizeLinear")
            ):
                with torch.no_grad():
                    (value,) = OPERATORS[node.op](node, *(self.tensors[name] if name else None for name in node.inputs))
                result = value.tensor() if isinstance(value, Known) else value.contiguous()
                source = self.origin[given[0]] if given and node.op != "ConstantOfShape" else node.outputs[0]
            else:
                left.append(node)
                continue
            self.tensors[node.outputs[0]], self.origin[node.outputs[0]] = result, source
        return left

    def untie(self, nodes: Sequence[Node], outputs: Iterable[str]) -> list[Node]:
        """Give each node a vector of floats of its own, where several read one; the nodes with the new names.

        Exporters store equal tensors once. Vectors are equal by chance, as biases that start at zero are; a matrix that
        several nodes read is tied on purpose, and stays one.
        """
        uses = count_uses(nodes, outputs)
        seen: set[str] = set()

        def own(name: str) -> str:
            value = self.tensors.get(name)
            if value is None or uses[name] < 2 or value.ndim != 1 or value.numel() < 2 or not value.is_floating_point():
                return name
            if name not in seen:
                seen.add(name)
                return name
            copy = f"{name}:{len(self.tensors)}"
            self.tensors[copy], self.origin[copy] = value.clone(), self.origin[name]
            return copy

        scaled = ("QuantizeLinear", "DequantizeLinear")  # a pair is known by its common scale
        return [node if node.op in scaled else replace(node, inputs=tuple(map(own, node.inputs))) for node in nodes]

    def role(self, name: str, readers: Sequence[tuple[Node, int]]) -> str:
        """What a constant is: "number", "parameter" or "buffer".

        Finite floats that enter where weights do are parameters; a single one only where it can be nothing else, for
        most are plain numbers. Few whole numbers are sizes, axes and indices.
        """
        value = self.tensors[name]
        if not value.is_floating_point():
            return "number" if value.numel() <= LARGEST and not value.is_complex() else "buffer"
        hard = any(not node.domain and place in _HARD.get(node.op, ()) for node, place in readers)
        soft = any(not node.domain and place in _SOFT.get(node.op, ()) for node, place in readers)
        if value.numel() == 1 and not hard:
            return "number" if math.isfinite(value.item()) else "buffer"
        known = all(not node.domain and node.op in OPERATORS for node, _ in readers)
        if known and (hard or soft) and bool(torch.isfinite(value).all()):
            return "parameter"
        return "number" if readers and all(node.op in _SCALED for node, _ in readers) else "buffer"


def count_uses(nodes: Sequence[Node], outputs: Iterable[str]) -> Counter[str]:
    """How often each value is read, by nodes or as an output of the graph."""
    return Counter([*(name for node in nodes for name in node.inputs if name), *outputs])


def initializers(protos: Iterable[onnx.TensorProto]) -> list[tuple[str, Tensor]]:
    """The named tensors of a file."""
    return [(proto.name, read_tensor(proto)) for proto in protos]
