"""Tensors that share memory: which of them to store, and how to give the others back.

Each tensor that is not stored gets a note:

    {"of": owner}                                       the same tensor under another name (tied weights)
    {"of": owner, "offset", "dtype", "shape", "stride"} a view of the owner's bytes; offset in bytes, stride in elements

Views that differ from each other (a slice beside its whole, a matrix beside its transpose) are all views of a hidden
owner: the bytes that they cover, under a name of our own.
"""

from collections.abc import Container, Mapping
from typing import Any

import torch
from torch import Tensor

from penjing.errors import ArtifactError
from penjing.storage.raw import DTYPES, NAMES, is_shape

_ALIGNMENT = 16  # a whole number of elements of every dtype


def split_aliases(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """Choose what is stored: for each set of tensors that overlap in memory, one owner, and notes on the others.

    >>> weight = torch.ones(2)
    >>> owners, notes = split_aliases({"a": weight, "b": weight})
    >>> list(owners), notes
    (['a'], {'b': {'of': 'a'}})
    """
    owners: dict[str, Tensor] = {}
    aliases: dict[str, dict[str, Any]] = {}
    for names in _overlapping(tensors):
        first = tensors[names[0]]
        if all(_same_view(first, tensors[name]) for name in names):
            owners[names[0]] = first
            aliases |= {name: {"of": names[0]} for name in names[1:]}
            continue
        spans = [_span(tensors[name]) for name in names]
        start = min(low for low, _ in spans)
        start -= (start - first.untyped_storage().data_ptr()) % _ALIGNMENT
        size = max(high for _, high in spans) - start
        hidden = _unused_name(f"storage.{min(names)}", tensors)
        offset = start - first.untyped_storage().data_ptr()
        owners[hidden] = torch.empty(0, dtype=torch.uint8, device=first.device).set_(
            first.untyped_storage(), offset, (size,), (1,)
        )
        for name in names:
            tensor = tensors[name]
            aliases[name] = {
                "of": hidden,
                "offset": tensor.data_ptr() - start,
                "dtype": NAMES[tensor.dtype],
                "shape": list(tensor.shape),
                "stride": list(tensor.stride()),
            }
    return owners, aliases


def _overlapping(tensors: Mapping[str, Tensor]) -> list[list[str]]:
    """Sort names into sets whose bytes overlap; neighbours in one storage, such as parts of a flat buffer, do not."""
    groups: list[list[str]] = []
    memory, end = ("", 0, 0), 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (_memory(item[1]), _span(item[1]), item[0])):
        low, high = _span(tensor)
        if _memory(tensor) == memory and low < min(high, end):
            groups[-1].append(name)
            end = max(end, high)
        else:
            groups.append([name])
            memory, end = _memory(tensor), high
    return groups


def _memory(tensor: Tensor) -> tuple[str, int, int]:
    """Tell one block of memory from another; a numpy array seen twice may give two storages over the same bytes."""
    storage = tensor.untyped_storage()
    return str(tensor.device), storage.data_ptr(), storage.nbytes()


def _span(tensor: Tensor) -> tuple[int, int]:
    """Addresses of a tensor's first byte and of the one past its last; 0, 0 if it is empty or conjugated on reading."""
    if tensor.numel() == 0 or tensor.is_conj() or tensor.is_neg():
        return 0, 0
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


def _same_view(one: Tensor, other: Tensor) -> bool:
    return (one.data_ptr(), one.dtype, one.shape, one.stride()) == (
        other.data_ptr(),
        other.dtype,
        other.shape,
        other.stride(),
    )


def _unused_name(name: str, taken: Container[str]) -> str:
    while name in taken:
        name += "_"
    return name


def is_alias(note: Any, names: set[str]) -> bool:
    """Whether a note read from a file is sound, given the names of the stored tensors."""
    if not isinstance(note, dict) or note.get("of") not in names:
        return False
    if note.keys() == {"of"}:
        return True
    return (
        note.keys() == {"of", "offset", "dtype", "shape", "stride"}
        and is_shape([note["offset"]])
        and note["dtype"] in DTYPES
        and is_shape(note["shape"])
        and is_shape(note["stride"])
        and len(note["shape"]) == len(note["stride"])
        and note["offset"] % DTYPES[note["dtype"]].itemsize == 0
    )


def restore_alias(owner: Tensor, note: Mapping[str, Any], what: str) -> Tensor:
    """Give the tensor that a sound note describes, on its owner's memory; ArtifactError if it does not fit there."""
    if "stride" not in note:
        return owner
    dtype = DTYPES[note["dtype"]]
    shape, stride, offset = note["shape"], note["stride"], note["offset"] // dtype.itemsize
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if 0 in shape or (last + 1) * dtype.itemsize > owner.numel() * owner.element_size():
        raise ArtifactError(f"{what} reaches beyond the memory it shares; the file is damaged, take another copy")
    return torch.empty(0, dtype=dtype).set_(owner.untyped_storage(), offset, tuple(shape), tuple(stride))
