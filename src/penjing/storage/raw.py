"""The bytes of a tensor, and a tensor from bytes: the one place that knows what a plain tensor is."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penjing.errors import ArtifactError

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "F32": torch.float32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}
"""Names of the safetensors format and what torch calls them."""

NAMES = {dtype: name for name, dtype in DTYPES.items()}


def check_plain(name: str, value: object) -> None:
    """Raise ArtifactError, naming the remedy, for what has no bytes that could be stored as they are."""
    if not isinstance(value, Tensor):
        raise ArtifactError(f"{name} is a {type(value).__name__}; give a torch.Tensor")
    if value.is_meta:
        raise ArtifactError(f"{name} is on the meta device and has no values; load or initialise the model first")
    if value.layout != torch.strided:
        raise ArtifactError(f"{name} has the layout {value.layout}; call .to_dense() on it first")
    if value.is_quantized:
        raise ArtifactError(f"{name} is a quantised tensor; store .int_repr(), .q_scale() and .q_zero_point() instead")
    if value.dtype not in NAMES:
        raise ArtifactError(f"{name} has the dtype {value.dtype}; convert it to one of {', '.join(map(str, NAMES))}")


def to_bytes(tensor: Tensor) -> NDArray[np.uint8]:
    """Give the bytes [nbytes] of a tensor in row-major order; no copy where it lies so in memory already."""
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    raw: NDArray[np.uint8] = plain.reshape(-1).view(torch.uint8).numpy()
    return raw


def from_bytes(raw: NDArray[np.uint8], dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Make a tensor of bytes [nbytes], which it shares."""
    if raw.size == 0:  # torch cannot reinterpret no bytes
        return torch.empty(shape, dtype=dtype)
    return torch.from_numpy(raw).view(dtype).reshape(shape)


def is_shape(value: Any) -> bool:
    """Whether a value read from a file is a list of sizes."""
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)
