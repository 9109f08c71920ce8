"""Nodes that torch has no row for: one opaque call each, which ONNX Runtime, or ONNX's own reference, computes.

    torch.ops.penjing_onnx.node(inputs, model) -> outputs

The node travels in the graph as text: a model of this node alone, so that copies and saved graphs need nothing else.
What it gives is known to torch by shape and dtype alone, and no gradient passes.
"""

import base64
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from penjing.errors import CaptureError, RuntimeUnavailable, first_line
from penjing.onnx_import.known import tensor
from penjing.onnx_import.node import DTYPES

_TYPES = {dtype: kind for kind, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Frozen:
    """A node that is computed outside torch, and why."""

    name: str
    op: str
    reason: str

    def __str__(self) -> str:
        return f"{self.op} {self.name!r}: {self.reason}"


@dataclass(frozen=True)
class FrozenNode:
    """A node as a call of the opaque operator; `given` are the places of the inputs that are not left out."""

    text: str
    given: tuple[int, ...]

    @classmethod
    def of(cls, proto: onnx.NodeProto, opsets: Sequence[onnx.OperatorSetIdProto], ir_version: int) -> "FrozenNode":
        """Write a node as a model of its own."""
        given = tuple(i for i, name in enumerate(proto.input) if name)
        node = onnx.NodeProto()
        node.CopyFrom(proto)
        for i in given:
            node.input[i] = f"i{i}"
        outputs = [name for name in proto.output if name]
        for i, name in enumerate(proto.output):
            node.output[i] = f"o{i}" if name else ""
        graph = onnx.GraphProto(name="node", node=[node])
        graph.input.extend(onnx.ValueInfoProto(name=f"i{i}") for i in given)
        graph.output.extend(onnx.ValueInfoProto(name=f"o{i}") for i, name in enumerate(proto.output) if name)
        assert len(outputs) == len(graph.output)
        model = onnx.ModelProto(ir_version=ir_version, graph=graph, opset_import=opsets)
        return cls(base64.b64encode(model.SerializeToString()).decode(), given)

    def __call__(self, *inputs: Any) -> list[Tensor]:
        """The outputs that the file names, in order."""
        found: list[Tensor] = torch.ops.penjing_onnx.node([tensor(inputs[i]) for i in self.given], self.text)
        return found


@functools.lru_cache(maxsize=256)
def model_of(text: str) -> onnx.ModelProto:
    """The model that a text holds."""
    model: onnx.ModelProto = onnx.ModelProto.FromString(base64.b64decode(text))
    return model


def _typed(text: str, types: Sequence[torch.dtype], shapes: Sequence[Sequence[int | str]]) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(model_of(text))
    for info, dtype, shape in zip(model.graph.input, types, shapes, strict=True):
        info.CopyFrom(onnx.helper.make_tensor_value_info(info.name, _TYPES[dtype], shape))
    return model


@functools.lru_cache(maxsize=256)
def _runner(text: str, types: tuple[torch.dtype, ...], ranks: tuple[int, ...]) -> Any:
    """A function from arrays to arrays: ONNX Runtime where it knows the operator, else the reference of ONNX."""
    import onnxruntime as ort
    from onnx.reference import ReferenceEvaluator

    model = _typed(text, types, [[f"d{i}_{j}" for j in range(rank)] for i, rank in enumerate(ranks)])
    node = model.graph.node[0]
    names = [info.name for info in model.graph.input]
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    settings.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
        return lambda arrays: session.run(None, dict(zip(names, arrays, strict=True)))
    except Exception as problem:  # its own exception classes have no common public base
        try:
            evaluator = ReferenceEvaluator(model)
            return lambda arrays: evaluator.run(None, dict(zip(names, arrays, strict=True)))
        except Exception:
            kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise RuntimeUnavailable(
                f"node {node.name!r}: nothing here computes the operator {kind} ({first_line(problem)}); export the "
                "model without it, or give the torch.nn.Module that it came from"
            ) from problem


def _run(inputs: Sequence[Tensor], text: str) -> list[Tensor]:
    given = [value.detach().cpu() for value in inputs]
    lowered = [value.float() if value.dtype in (torch.float64, torch.bfloat16) else value for value in given]
    attempts = [given] if all(a is b for a, b in zip(given, lowered, strict=True)) else [given, lowered]
    problem: Exception | None = None
    for values in attempts:
        try:
            run = _runner(text, tuple(v.dtype for v in values), tuple(v.ndim for v in values))
            outputs = [torch.from_numpy(np.array(array)) for array in run([v.numpy() for v in values])]
        except (RuntimeUnavailable, TypeError) as failed:
            problem = failed
            continue
        if values is lowered:  # the runtime has no kernel of this precision: the graph around it goes on in its own
            wanted = next(v.dtype for v, low in zip(given, lowered, strict=True) if v is not low)
            outputs = [value.to(wanted) if value.is_floating_point() else value for value in outputs]
        return [value.to(inputs[0].device) if inputs else value for value in outputs]
    assert problem is not None
    raise problem


@torch.library.custom_op("penjing_onnx::node", mutates_args=())
def node_call(inputs: Sequence[Tensor], model: str) -> list[Tensor]:
    """Compute a model of one node."""
    return _run(inputs, model)


@node_call.register_fake
def _fake(inputs: Sequence[Tensor], model: str) -> list[Tensor]:
    given: list[list[Any]] = [list(value.shape) for value in inputs]
    sizes = {str(size): size for shape in given for size in shape if isinstance(size, torch.SymInt)}
    shapes = [[str(size) if isinstance(size, torch.SymInt) else size for size in shape] for shape in given]
    dtypes = [torch.float32 if value.dtype in (torch.float64, torch.bfloat16) else value.dtype for value in inputs]
    shortened = next((v.dtype for v, d in zip(inputs, dtypes, strict=True) if v.dtype is not d), None)
    found = _inferred(model, dtypes, shapes) or _probed(model, dtypes, shapes, sizes)
    context = None
    outputs = []
    for dtype, shape in found:
        wanted: list[Any] = []
        for size in shape:
            if isinstance(size, int):
                wanted.append(size)
            elif size in sizes:
                wanted.append(sizes[size])
            else:
                context = context or torch.library.get_ctx()
                wanted.append(context.new_dynamic_size())
        dtype = shortened if shortened is not None and dtype.is_floating_point else dtype
        outputs.append(torch.empty(wanted, dtype=dtype, device=inputs[0].device if inputs else None))
    return outputs


def _inferred(text: str, dtypes: Sequence[torch.dtype], shapes: Any) -> list[tuple[torch.dtype, list[Any]]] | None:
    """Dtypes and shapes by ONNX's shape inference, None where it does not tell."""
    try:
        model = onnx.shape_inference.infer_shapes(_typed(text, dtypes, shapes), data_prop=True)
    except Exception:  # an operator whose schema ONNX does not have
        return None
    found: list[tuple[torch.dtype, list[Any]]] = []
    for info in model.graph.output:
        kind = info.type.tensor_type
        if kind.elem_type not in DTYPES or not kind.HasField("shape"):
            return None
        dims = [d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in kind.shape.dim]
        found.append((DTYPES[kind.elem_type], dims))
    return found


def _probed(text: str, dtypes: Sequence[torch.dtype], shapes: Any, sizes: Any) -> list[tuple[torch.dtype, list[Any]]]:
    """Dtypes and shapes by running the node on zeros at two choices of the free sizes.

    A size that follows one free size is that size; one that follows several is known when it runs.
    """
    first = {name: int(size.node.hint) for name, size in sizes.items()}
    second = {name: size + 1 + i for i, (name, size) in enumerate(first.items())}

    def outputs(values: Any) -> list[Tensor]:
        zeros = [
            torch.zeros([values.get(size, size) for size in shape], dtype=dtype)
            for shape, dtype in zip(shapes, dtypes, strict=True)
        ]
        return _run(zeros, text)

    from torch._subclasses.fake_tensor import unset_fake_temporarily

    with unset_fake_temporarily():
        a, b = outputs(first), outputs(second)
    found = []
    for one, two in zip(a, b, strict=True):
        shape = []
        for here, there in zip(one.shape, two.shape, strict=True):
            follows = [name for name in first if (here, there) == (first[name], second[name])]
            shape.append(here if here == there else follows[0] if len(follows) == 1 else None)
        found.append((one.dtype, shape))
    return found


def _no_gradient(context: Any, *gradients: Any) -> Any:
    node = model_of(context.text).graph.node[0]
    raise CaptureError(
        f"node {node.name!r} ({node.op_type}) is computed outside torch, and no gradient passes it; train only what "
        "comes behind it, with requires_grad_(False) on the parameters before it"
    )


def _remember(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.text = inputs[1]


node_call.register_autograd(_no_gradient, setup_context=_remember)
