"""Fingerprints of files, plain values and tensors: SHA-256, as 64 hexadecimal digits."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from penjing.errors import ArtifactError
from penjing.storage.raw import NAMES, check_plain, to_bytes
from penjing.storage.strict_json import canonical_json


def sha256_file(path: str | Path) -> str:
    """Hash the content of a file. Raises ArtifactError if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        raise ArtifactError(
            f"{path} cannot be read: {problem.strerror}; check the path and its permissions"
        ) from problem


def fingerprint(data: Any) -> str:
    """Hash plain values by their canonical JSON; the order of keys does not count, the type of a number does.

    Raises ArtifactError for a value that JSON cannot hold.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    >>> fingerprint(1) == fingerprint(1.0)
    False
    """
    return hashlib.sha256(canonical_json(data).encode()).hexdigest()


def fingerprint_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Hash named tensors by name, dtype, shape and bytes, in the order of their names.

    Device, memory layout and gradients do not count; -0.0 and 0.0 differ. Raises ArtifactError for a tensor without
    plain bytes (sparse, quantised, meta).

    >>> import torch
    >>> weight = torch.arange(6.).reshape(2, 3)
    >>> fingerprint_tensors({"w": weight}) == fingerprint_tensors({"w": weight.T.contiguous().T})
    True
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        check_plain(name, tensor)
        # The header is JSON with a line end, so that no name, dtype or shape can pass for another or for bytes.
        digest.update(canonical_json([name, NAMES[tensor.dtype], list(tensor.shape)]).encode() + b"\n")
        digest.update(to_bytes(tensor).data)
    return digest.hexdigest()
