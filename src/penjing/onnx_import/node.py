"""One node of an ONNX graph, read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from penjing.errors import ArtifactError, CaptureError, first_line

DTYPES: dict[int, torch.dtype] = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.BFLOAT16: torch.bfloat16,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.INT16: torch.int16,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.UINT16: torch.uint16,
    onnx.TensorProto.UINT32: torch.uint32,
    onnx.TensorProto.UINT64: torch.uint64,
    onnx.TensorProto.BOOL: torch.bool,
    onnx.TensorProto.COMPLEX64: torch.complex64,
    onnx.TensorProto.COMPLEX128: torch.complex128,
}


@dataclass(frozen=True)
class Node:
    """An operator with its attributes, the names of its inputs ("" for one that is left out) and of its outputs.

    opset is the version of the operator set of its domain that the file asks for.
    """

    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Node":
        return self

    def __str__(self) -> str:
        kind = f"{self.domain}.{self.op}" if self.domain else self.op
        return f"{kind} {self.name!r}"

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or its default."""
        return self.attributes.get(name, default)

    @classmethod
    def of(cls, proto: onnx.NodeProto, opsets: Mapping[str, int]) -> "Node":
        """Read a node of a file; opsets are the versions of the operator sets that the file uses."""
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        return cls(
            proto.op_type,
            domain,
            proto.name or next(filter(None, proto.output), proto.op_type),
            tuple(proto.input),
            tuple(proto.output),
            opsets.get(domain, 1),
            {attribute.name: _attribute(attribute) for attribute in proto.attribute},
        )


def _attribute(proto: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(proto)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, onnx.TensorProto):
        return value
    if isinstance(value, list | tuple) or hasattr(value, "append"):
        return tuple(item.decode(errors="replace") if isinstance(item, bytes) else item for item in value)
    return value


def read_tensor(proto: onnx.TensorProto) -> Tensor:
    """A tensor of a file. Raises CaptureError for numbers that torch lacks, such as text."""
    if proto.data_type not in DTYPES:
        kind = onnx.TensorProto.DataType.Name(proto.data_type)
        raise CaptureError(f"the constant {proto.name!r} is of type {kind}, which torch does not compute with")
    try:
        array = onnx.numpy_helper.to_array(proto)
    except ValueError as problem:  # fewer bytes than the shape asks for
        raise ArtifactError(
            f"the data of {proto.name!r} does not fill its shape {list(proto.dims)}: {first_line(problem)}; the file, "
            "or the one beside it with the weights, is cut off"
        ) from problem
    if proto.data_type == onnx.TensorProto.BFLOAT16:
        return torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)
    return torch.from_numpy(np.array(array))
