"""A file of ONNX, checked as a whole before anything is built from it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnx.inliner
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from penjing.errors import ArtifactError, CaptureError, first_line
from penjing.onnx_import.node import DTYPES

OLDEST, NEWEST = 7, 28
_STANDARD = ("", "ai.onnx")


@dataclass(frozen=True)
class TensorType:
    """An input or output of a file: its name, the number of its ONNX type, and its sizes, names where they are free."""

    name: str
    type: int
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True)
class Metadata:
    """What a file says of itself, beside its graph."""

    graph: str
    producer: str
    producer_version: str
    ir_version: int
    opsets: dict[str, int]
    doc_string: str
    properties: dict[str, str]
    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]


@dataclass(frozen=True)
class File:
    """A file in memory, functions inlined, and the rank of each tensor where shape inference tells it."""

    proto: onnx.ModelProto
    metadata: Metadata
    ranks: dict[str, int] = field(default_factory=dict)

    @property
    def opset(self) -> int:
        """Version of the standard operator set."""
        return self.metadata.opsets.get("", NEWEST)


def read(path: Path) -> File:
    """Read a file with its external data.

    Raises ArtifactError for a file that is missing, no ONNX, invalid, or of an unknown operator set, and for external
    data that is missing or outside the folder; CaptureError for a graph that chooses or repeats.
    """
    if not path.is_file():
        raise ArtifactError(f"{path} is no file; give the path of an .onnx file")
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError, OSError) as problem:
        raise ArtifactError(f"{path} is not an ONNX file: {first_line(problem)}; export the model again") from problem
    if not model.graph.node and not model.graph.output:
        raise ArtifactError(f"{path} is not an ONNX file: it holds no graph; export the model again")
    _check_opsets(model, path)
    _check_external(model, path)
    try:
        onnx.checker.check_model(path)
    except (onnx.checker.ValidationError, ValueError) as problem:
        raise ArtifactError(f"{path} is not valid ONNX: {first_line(problem)}; export the model again") from problem
    try:
        onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
    except (ValueError, OSError, onnx.checker.ValidationError) as problem:
        raise ArtifactError(f"{path}: its external data cannot be read: {first_line(problem)}") from problem
    metadata = _metadata(model)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    _check_subgraphs(model, path)
    return File(model, metadata, _ranks(model))


def _check_opsets(model: onnx.ModelProto, path: Path) -> None:
    for entry in model.opset_import:
        if entry.domain not in _STANDARD:
            continue
        if entry.version > NEWEST:
            raise ArtifactError(
                f"{path} uses opset {entry.version}, and opsets {OLDEST} to {NEWEST} are known; export the model with "
                f"opset_version={NEWEST} or lower, or convert it with onnx.version_converter"
            )
        if entry.version < OLDEST:
            raise ArtifactError(
                f"{path} uses opset {entry.version}, older than {OLDEST}; convert it with "
                "onnx.version_converter.convert_version(model, 13)"
            )


def _check_external(model: onnx.ModelProto, path: Path) -> None:
    folder = path.parent.resolve()
    for tensor in _tensors(model):
        if not onnx.external_data_helper.uses_external_data(tensor):
            continue
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        file = (folder / location).resolve()
        if not location or not file.is_relative_to(folder):
            raise ArtifactError(
                f"{path}: the data of {tensor.name!r} lies at {location!r}, outside the folder of the file, where "
                "nothing is read; save the model with its data beside it"
            )
        if not file.is_file():
            raise ArtifactError(
                f"{path}: {location!r}, which holds the data of {tensor.name!r}, is missing; put it beside the file"
            )


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from model.graph.initializer
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        for node in nodes:
            yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))


def _check_subgraphs(model: onnx.ModelProto, path: Path) -> None:
    for node in model.graph.node:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise CaptureError(
                f"{path}: the node {node.name or node.output[0]!r} ({node.op_type}) chooses or repeats a graph within "
                "the graph, which is not taken in; export the model without control flow, or simplify the file "
                "(onnxsim folds conditions that are constant)"
            )
        if node.op_type.startswith(("Sequence", "Optional", "SplitToSequence", "ConcatFromSequence", "String")):
            raise CaptureError(
                f"{path}: the node {node.name or node.output[0]!r} ({node.op_type}) passes on a value that is no "
                "tensor; export the model with tensors alone"
            )
    for info in (*model.graph.input, *model.graph.output):
        if not info.type.HasField("tensor_type") or info.type.tensor_type.elem_type not in DTYPES:
            raise CaptureError(
                f"{path}: {info.name!r} is no tensor of numbers; export the model with tensors alone (zipmap=False for "
                "a classifier of skl2onnx)"
            )
    if model.graph.sparse_initializer:
        raise CaptureError(f"{path} holds sparse weights, which are not taken in; save them as dense ones")


def _metadata(model: onnx.ModelProto) -> Metadata:
    weights = {tensor.name for tensor in model.graph.initializer}
    return Metadata(
        graph=model.graph.name,
        producer=model.producer_name,
        producer_version=model.producer_version,
        ir_version=model.ir_version,
        opsets={"" if entry.domain in _STANDARD else entry.domain: entry.version for entry in model.opset_import},
        doc_string=model.doc_string,
        properties={entry.key: entry.value for entry in model.metadata_props},
        inputs=tuple(_type(info) for info in model.graph.input if info.name not in weights),
        outputs=tuple(_type(info) for info in model.graph.output),
    )


def _type(info: onnx.ValueInfoProto) -> TensorType:
    kind = info.type.tensor_type
    if not kind.HasField("shape"):
        return TensorType(info.name, kind.elem_type, None)
    sizes = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in kind.shape.dim)
    return TensorType(info.name, kind.elem_type, sizes)


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    """The rank of each tensor, by shape inference on the graph without its large weights."""
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = light.graph
    graph.name = "graph"
    graph.node.extend(model.graph.node)
    graph.output.extend(model.graph.output)
    graph.input.extend(model.graph.input)
    named = {info.name for info in graph.input}
    for tensor in model.graph.initializer:
        if len(tensor.dims) <= 1 and sum(tensor.dims) <= 64:
            graph.initializer.append(tensor)
        elif tensor.name not in named:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    try:
        inferred = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    except Exception:  # inference is a help, not a condition: what it does not tell is found when the graph runs
        inferred = graph
    infos = (*inferred.input, *inferred.value_info, *inferred.output)
    return {
        info.name: len(info.type.tensor_type.shape.dim) for info in infos if info.type.tensor_type.HasField("shape")
    }
