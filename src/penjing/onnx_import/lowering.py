"""From nodes to steps: which node is a layer, which is computed by a row of the table, and which is frozen."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import onnx
from torch import nn

from penjing.onnx_import.constants import Constants, count_uses
from penjing.onnx_import.frozen import Frozen, FrozenNode
from penjing.onnx_import.known import tensor
from penjing.onnx_import.layers import Layer, Weights, bias_of, layer_of
from penjing.onnx_import.module import Step
from penjing.onnx_import.names import Names, path
from penjing.onnx_import.node import Node
from penjing.onnx_import.operators import OPERATORS
from penjing.onnx_import.operators.quantized import fake_quantize
from penjing.onnx_import.reading import File

_ENDINGS = ("weight", "bias", "running_mean", "running_var", "gamma", "beta")


@dataclass
class Lowering:
    """The steps of a graph as they are found, with the layers that they call and the nodes that are frozen."""

    file: File
    constants: Constants
    names: Names = field(default_factory=Names)
    steps: list[Step] = field(default_factory=list)
    layers: dict[str, nn.Module] = field(default_factory=dict)
    frozen: list[Frozen] = field(default_factory=list)

    def lower(self, nodes: Sequence[Node], protos: Mapping[str, onnx.NodeProto], outputs: Sequence[str]) -> None:
        """Go through the nodes in order; protos are the nodes of the file, by their first output."""
        uses = count_uses(nodes, outputs)
        weights = Weights(self.constants.tensors, uses, self.file.ranks)
        readers: dict[str, list[Node]] = defaultdict(list)
        for node in nodes:
            for name in node.inputs:
                readers[name].append(node)
        taken: set[str] = set()
        for node in nodes:
            if _key(node) in taken:
                continue
            after = readers[node.outputs[0]]
            if layer := layer_of(node, weights):
                taken |= self._layer(
                    node, layer, after[0] if uses[node.outputs[0]] == len(after) == 1 else None, weights
                )
            elif _is_undone(node, after, uses):
                taken |= {_key(reader) for reader in after}
                self.steps.append(Step(node, node.inputs, node.outputs, _fake_quantize))
                for reader in after:
                    same = replace(reader, op="Identity")
                    self.steps.append(Step(same, node.outputs, reader.outputs, OPERATORS["Identity"]))
            elif not node.domain and node.op in OPERATORS and OPERATORS[node.op].when(node):
                self.steps.append(Step(node, node.inputs, node.outputs, OPERATORS[node.op]))
            else:
                self._freeze(node, protos[_key(node)])

    def _layer(self, node: Node, layer: Layer, after: Node | None, weights: Weights) -> set[str]:
        """Call a layer, which takes the bias that the node after it adds; the nodes that it stands for as well."""
        owned, outputs = list(layer.weights), node.outputs
        bias = None if after is None else bias_of(after, layer, weights)
        if after is not None and bias is not None:
            owned.append(bias)
            outputs = after.outputs
        name = self._layer_name(node, [self.constants.origin[weight] for weight in owned if weight])
        self.layers[name] = layer.module
        inputs = tuple(node.inputs[place] if place < len(node.inputs) else "" for place in layer.places)
        self.steps.append(Step(node, inputs, outputs, layer=name))
        return set() if after is None or bias is None else {_key(after)}

    def _freeze(self, node: Node, proto: onnx.NodeProto) -> None:
        kind = f"{node.domain}.{node.op}" if node.domain else node.op
        known = not node.domain and node.op in OPERATORS
        why = "with these attributes it has no counterpart in torch" if known else "no counterpart in torch is known"
        self.frozen.append(Frozen(node.name, kind, why))
        call = FrozenNode.of(proto, self.file.proto.opset_import, self.file.proto.ir_version)
        outputs = tuple(name for name in node.outputs if name)
        self.steps.append(Step(node, node.inputs, outputs, lambda _, *inputs: call(*inputs)))

    def _layer_name(self, node: Node, weights: Sequence[str]) -> str:
        """The path of a layer: what stands before .weight in the names of its weights, else the node's own name."""
        for weight in weights:
            owner, dot, key = weight.rpartition(".")
            if dot and key in _ENDINGS and self.names.free(path(owner)):
                return self.names.give(path(owner))
        return self.names.give(path(node.name))


def with_ends(steps: Sequence[Step], outputs: Sequence[str]) -> tuple[Step, ...]:
    """The same steps, each with the values that no later one reads."""
    seen = set(outputs)
    result = []
    for step in reversed(steps):
        done = {name for name in (*step.inputs, *step.outputs) if name and name not in seen}
        seen |= done
        result.append(replace(step, done=tuple(sorted(done))))
    return tuple(reversed(result))


def _key(node: Node) -> str:
    """What a node is known by: the first output that it gives."""
    return next(filter(None, node.outputs), node.name)


def _is_undone(node: Node, after: Sequence[Node], uses: Counter[str]) -> bool:
    """Whether a node turns floats into integers that go nowhere but back, by the same scale."""
    back = [
        reader.op == "DequantizeLinear" and not reader.domain and reader.inputs[1:] == node.inputs[1:]
        for reader in after
    ]
    quantizes = node.op == "QuantizeLinear" and not node.domain
    return quantizes and bool(back) and all(back) and uses[node.outputs[0]] == len(back)


def _fake_quantize(node: Node, *inputs: Any) -> tuple[Any, ...]:
    x, scale, *zero = map(tensor, inputs)
    return (fake_quantize(node, x, scale, *zero),)
