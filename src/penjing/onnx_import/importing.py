"""import_onnx: a file becomes a module."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from penjing.onnx_import.constants import Constants, initializers
from penjing.onnx_import.known import Known
from penjing.onnx_import.lowering import Lowering, with_ends
from penjing.onnx_import.module import OnnxModule, Plan, Step, class_for
from penjing.onnx_import.names import Names, identifier, path
from penjing.onnx_import.node import Node
from penjing.onnx_import.reading import File, read


def import_onnx(file: str | Path) -> OnnxModule:
    """Read an .onnx file as a module that trains, is captured and exported as any other.

    Weights are parameters under their names in the file, those of a node alone in a layer of torch.nn. Sizes that the
    file computes stay sizes, so that the batch is free where the file leaves it free. Batch norms use running
    statistics in eval mode, in which the module starts, and those of the batch in training; dropout is left out.
    Int8 files (QDQ) have float weights, and activations on the steps of their integers. Operators without a row are
    frozen: ONNX Runtime computes them, and no gradient passes.

    Raises ArtifactError for what is no valid file, or of an unknown opset, and CaptureError for control flow.

    >>> import contextlib, io, tempfile
    >>> with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
    ...     _ = torch.onnx.export(nn.Linear(3, 2), (torch.zeros(1, 3),), f"{folder}/m.onnx", dynamo=True, verbose=False,
    ...         input_names=["x"])
    ...     model = import_onnx(f"{folder}/m.onnx")
    >>> model(x=torch.zeros(1, 3)).shape, len(list(model.parameters())), model.frozen
    (torch.Size([1, 2]), 2, ())
    """
    where = Path(file)
    return _build(read(where), identifier(where.stem, "model"))


def _build(file: File, title: str) -> OnnxModule:
    graph = file.proto.graph
    outputs = tuple(info.name for info in graph.output)
    constants = Constants.of(initializers(graph.initializer))
    read_nodes = [Node.of(proto, file.metadata.opsets) for proto in graph.node]
    protos = {
        next(filter(None, node.outputs), node.name): proto for node, proto in zip(read_nodes, graph.node, strict=True)
    }
    nodes = constants.untie(constants.fold(read_nodes, outputs), outputs)
    lowering = Lowering(file, constants)
    lowering.lower(nodes, protos, outputs)
    held = _hold(constants, lowering.steps, outputs, lowering.names)
    plan = Plan(
        steps=with_ends(lowering.steps, outputs),
        arguments=_arguments([kind.name for kind in file.metadata.inputs]),
        outputs=outputs,
        tensors=held.tensors,
        sizes=held.sizes,
        fixed=held.fixed,
    )
    module = class_for(title, tuple(plan.arguments.values()))(plan, file.metadata, tuple(lowering.frozen))
    _fill(module, {**lowering.layers, **held.values})
    return module.eval()


def _arguments(inputs: Sequence[str]) -> dict[str, str]:
    """The name of each input as an argument of forward."""
    given = Names()
    return {name: given.give(identifier(name)) for name in inputs}


@dataclass
class _Held:
    """Where a module holds the constants that its steps read, as in Plan; `values` are what it holds, by path."""

    tensors: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, tuple[str, torch.dtype]] = field(default_factory=dict)
    fixed: dict[str, Known] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


def _hold(constants: Constants, steps: Sequence[Step], outputs: Sequence[str], names: Names) -> _Held:
    readers: dict[str, list[tuple[Node, int]]] = defaultdict(list)
    for step in steps:
        for name in filter(constants.tensors.__contains__, step.inputs):
            readers[name].append((step.node, step.node.inputs.index(name)))
    readers |= {name: [] for name in outputs if name in constants.tensors and name not in readers}
    held = _Held()
    for name, used in readers.items():
        value = constants.tensors[name]
        role = constants.role(name, used)
        if role == "number" and value.dtype in (torch.int64, torch.int32) and value.ndim <= 1 and value.numel():
            # Attributes, as a person would write them: a cut in place finds them there and sets them right.
            attribute = names.give(path(constants.origin[name]).replace(".", "_"))
            numbers = value.tolist()
            held.values[attribute] = tuple(numbers) if value.ndim else numbers
            held.sizes[name] = attribute, value.dtype
        elif role == "number":
            held.fixed[name] = Known.of(
                value.double().numpy() if value.is_floating_point() else value.numpy(), value.dtype
            )
        else:
            held.tensors[name] = names.give(path(constants.origin[name]))
            held.values[held.tensors[name]] = nn.Parameter(value) if role == "parameter" else value
    return held


def _fill(root: nn.Module, values: Mapping[str, Any]) -> None:
    """Put layers, tensors and numbers where their paths say, in empty modules where there are none."""
    for name, value in values.items():
        *parts, key = name.split(".")
        owner = root
        for part in parts:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            owner.register_buffer(key, value)
        else:
            setattr(owner, key, value)
