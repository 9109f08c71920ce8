"""import_onnx: a file becomes a module."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from penjing.onnx_import.constants import Constants, count_uses, initializers
from penjing.onnx_import.frozen import Frozen, FrozenNode
from penjing.onnx_import.known import Known
from penjing.onnx_import.layers import Weights, bias_of, layer_of
from penjing.onnx_import.module import OnnxModule, Plan, Step, class_for
from penjing.onnx_import.names import Names, identifier, path
from penjing.onnx_import.node import Node
from penjing.onnx_import.operators import OPERATORS
from penjing.onnx_import.operators.quantized import fake_quantize
from penjing.onnx_import.reading import File, read


def import_onnx(file: str | Path) -> OnnxModule:
    """Read an .onnx file as a module that trains, is captured and exported as any other.

    Weights are parameters under their names in the file, those of a node alone in a layer of torch.nn. Sizes that the
    file computes stay sizes, so that the batch is free where the file leaves it free. Batch norms use running
    statistics in eval mode, in which the module starts, and those of the batch in training; dropout is left out.
    Int8 files (QDQ) have float weights, and activations on the steps of their integers. Operators without a row are
    frozen: ONNX Runtime computes them, and no gradient passes.

    Raises ArtifactError for what is no valid file, or of an unknown opset, and CaptureError for control flow.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = torch.onnx.export(nn.Linear(3, 2), (torch.zeros(1, 3),), f"{folder}/m.onnx", dynamo=True, verbose=False,
    ...         input_names=["x"])
    ...     model = import_onnx(f"{folder}/m.onnx")
    >>> model(x=torch.zeros(1, 3)).shape, [name for name, _ in model.named_parameters()]
    (torch.Size([1, 2]), ['linear.weight', 'linear.bias'])
    """
    where = Path(file)
    return _Builder(read(where)).build(identifier(where.stem, "model"))


@dataclass
class _Builder:
    file: File
    names: Names = field(default_factory=Names)
    modules: dict[str, nn.Module] = field(default_factory=dict)
    frozen: list[Frozen] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)

    def build(self, title: str) -> OnnxModule:
        """The module of a file."""
        graph = self.file.proto.graph
        outputs = tuple(info.name for info in graph.output)
        arguments = self._arguments([kind.name for kind in self.file.metadata.inputs])
        constants = Constants.of(initializers(graph.initializer))
        protos: dict[str, onnx.NodeProto] = {}
        nodes = []
        for proto in graph.node:
            node = Node.of(
                proto,
                self.file.metadata.opsets.get(
                    proto.domain.replace("ai.onnx", "", 1) if proto.domain == "ai.onnx" else proto.domain, 1
                ),
            )
            protos[next(filter(None, node.outputs), node.name)] = proto
            nodes.append(node)
        nodes = constants.untie(constants.fold(nodes, outputs), outputs)
        steps = self._steps(nodes, constants, outputs, protos)
        readers: dict[str, list[tuple[Node, int]]] = defaultdict(list)
        for step in steps:
            for name in step.inputs:
                if name in constants.tensors:
                    readers[name].append((step.node, step.node.inputs.index(name)))
        for name in outputs:
            if name in constants.tensors:
                readers[name]
        tensors: dict[str, str] = {}
        sizes: dict[str, tuple[str, torch.dtype]] = {}
        fixed: dict[str, Known] = {}
        held: dict[str, Any] = {}
        for name, used in readers.items():
            value = constants.tensors[name]
            role = constants.role(name, used)
            if role == "number" and value.dtype in (torch.int64, torch.int32) and value.ndim <= 1 and value.numel():
                attribute = self.names.give(path(constants.origin[name]).replace(".", "_"))
                found = value.tolist()
                held[attribute] = tuple(found) if isinstance(found, list) else found
                sizes[name] = attribute, value.dtype
            elif role == "number":
                fixed[name] = Known(_objects(value), value.dtype)
            else:
                tensors[name] = self.names.give(path(constants.origin[name]))
                held[tensors[name]] = nn.Parameter(value) if role == "parameter" else value
        plan = Plan(_with_ends(steps, outputs), arguments, outputs, tensors, sizes, fixed)
        module = class_for(title, tuple(arguments.values()))(plan, self.file.metadata, tuple(self.frozen))
        for name, layer in self.modules.items():
            _owner(module, name).add_module(name.rpartition(".")[2], layer)
        for name, value in held.items():
            owner, key = _owner(module, name), name.rpartition(".")[2]
            if isinstance(value, nn.Parameter):
                owner.register_parameter(key, value)
            elif isinstance(value, torch.Tensor):
                owner.register_buffer(key, value)
            else:
                setattr(owner, key, value)
        return module.eval()

    def _arguments(self, inputs: Sequence[str]) -> dict[str, str]:
        """The name of each input as an argument of forward."""
        given = Names()
        return {name: given.give(identifier(name)) for name in inputs}

    def _steps(
        self, nodes: Sequence[Node], constants: Constants, outputs: Sequence[str], protos: dict[str, onnx.NodeProto]
    ) -> list[Step]:
        uses = count_uses(nodes, outputs)
        weights = Weights(constants.tensors, uses, self.file.ranks)
        readers: dict[str, list[Node]] = defaultdict(list)
        for node in nodes:
            for name in node.inputs:
                readers[name].append(node)
        steps: list[Step] = []
        taken: set[str] = set()
        for node in nodes:
            if node.outputs[0] in taken:
                continue
            layer = layer_of(node, weights)
            if layer is not None:
                output, owned = node.outputs[0], list(layer.weights)
                after = readers[output][0] if uses[output] == 1 and readers[output] else None
                bias = None if after is None else bias_of(after, layer, weights)
                if after is not None and bias is not None:
                    owned.append(bias)
                    output = after.outputs[0]
                    taken.add(output)
                name = self._layer_name(node, [constants.origin[weight] for weight in owned if weight])
                self.modules[name] = layer.module
                steps.append(Step(node, (node.inputs[layer.place],), (output,), layer=name))
            elif node.op == "QuantizeLinear" and not node.domain and _undone(node, readers, uses):
                steps.append(Step(node, node.inputs, node.outputs, _fake_quantize))
                taken |= {reader.outputs[0] for reader in readers[node.outputs[0]]}
                for reader in readers[node.outputs[0]]:
                    steps.append(
                        Step(replace(reader, op="Identity"), node.outputs, reader.outputs, OPERATORS["Identity"])
                    )
            else:
                steps.append(self._step(node, protos))
        return steps

    def _step(self, node: Node, protos: dict[str, onnx.NodeProto]) -> Step:
        row = OPERATORS.get(node.op) if not node.domain else None
        if row is not None and row.when(node):
            return Step(node, node.inputs, node.outputs, row)
        kind = f"{node.domain}.{node.op}" if node.domain else node.op
        why = "with these attributes it has no counterpart in torch" if row else "no counterpart in torch is known"
        self.frozen.append(Frozen(node.name, kind, why))
        proto = self.file.proto
        call = FrozenNode.of(protos[next(filter(None, node.outputs))], proto.opset_import, proto.ir_version)
        outputs = tuple(name for name in node.outputs if name)
        return Step(node, node.inputs, outputs, lambda _, *inputs: call(*inputs))

    def _layer_name(self, node: Node, weights: Sequence[str]) -> str:
        """The path of a layer: what stands before .weight in the names of its weights, else the node's own name."""
        for weight in weights:
            owner, dot, key = weight.rpartition(".")
            if dot and key in ("weight", "bias", "running_mean", "running_var", "gamma", "beta"):
                if self.names.free(path(owner)):
                    return self.names.give(path(owner))
                break
        return self.names.give(path(node.name))


def _fake_quantize(node: Node, *inputs: Any) -> tuple[Any, ...]:
    from penjing.onnx_import.known import tensor

    return (fake_quantize(node, *(None if value is None else tensor(value) for value in inputs)),)


def _undone(node: Node, readers: dict[str, list[Node]], uses: Any) -> bool:
    """Whether the integers of a node go nowhere but back to floats, by the same scale."""
    after = readers[node.outputs[0]]
    return (
        bool(after)
        and uses[node.outputs[0]] == len(after)
        and all(
            reader.op == "DequantizeLinear" and not reader.domain and reader.inputs[1:] == node.inputs[1:]
            for reader in after
        )
    )


def _with_ends(steps: Sequence[Step], outputs: Sequence[str]) -> tuple[Step, ...]:
    """The same steps, each with the values that no later one reads."""
    seen = set(outputs)
    result = []
    for step in reversed(steps):
        done = {name for name in (*step.inputs, *step.outputs) if name and name not in seen}
        seen |= done
        result.append(replace(step, done=tuple(sorted(done))))
    return tuple(reversed(result))


def _owner(root: nn.Module, name: str) -> nn.Module:
    for part in name.split(".")[:-1]:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    return root


def _objects(value: torch.Tensor) -> Any:
    array = value.numpy().astype(object) if value.dtype is not torch.bfloat16 else value.float().numpy().astype(object)
    return array
