"""Named tensors in one safetensors file: deterministic, without pickle, with shared memory kept shared.

The file is plain safetensors (github.com/huggingface/safetensors) and any reader can open it. Two entries in its
metadata, both JSON, say what the format itself cannot:

    aliases   see `aliases`: tensors that share the memory of another entry
    codecs    {name: {"codec", "dtype", "shape"}}: the entry holds compressed bytes, see `codecs`
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from penjing.errors import ArtifactError
from penjing.storage.aliases import is_alias, restore_alias, split_aliases
from penjing.storage.atomic import atomic_file
from penjing.storage.codecs import CODECS, Bytes, smallest
from penjing.storage.raw import DTYPES, NAMES, check_plain, from_bytes, is_shape, to_bytes

RESERVED = ("aliases", "codecs")


def save_tensors(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    compact: bool = False,
) -> None:
    """Write named tensors of any strides and devices, atomically; tensors that share memory are stored once.

    `compact=True` stores each tensor compressed where that is smaller, bit for bit exact. Gradients are not stored.
    Equal tensors give equal files. Raises ArtifactError for a tensor without plain bytes (sparse, quantised, meta) and
    when the file cannot be written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "weights.safetensors"
    >>> import torch
    >>> weight = torch.ones(2, 3)
    >>> save_tensors(path, {"encoder.weight": weight, "decoder.weight": weight})
    >>> loaded = load_tensors(path)
    >>> loaded["encoder.weight"].data_ptr() == loaded["decoder.weight"].data_ptr()
    True
    """
    for name, tensor in tensors.items():
        check_plain(name, tensor)
    owners, aliases = split_aliases(tensors)
    codecs: dict[str, Any] = {}
    entries: dict[str, tuple[str, list[int], Bytes]] = {}
    for name, tensor in owners.items():
        raw, dtype, shape = to_bytes(tensor), NAMES[tensor.dtype], list(tensor.shape)
        if compact and (found := smallest(raw, tensor.element_size())) is not None:
            codec, chunk = found
            codecs[name] = {"codec": codec, "dtype": dtype, "shape": shape}
            raw, dtype, shape = chunk, "U8", [chunk.size]
        entries[name] = (dtype, shape, raw)
    _write(Path(path), entries, _all_metadata(metadata or {}, aliases, codecs))


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read what `save_tensors`, or any safetensors writer, wrote: CPU tensors in their own memory.

    The header and every size are checked before memory is allocated. Raises ArtifactError for a missing, damaged,
    truncated or foreign file.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            aliases, codecs = _read_notes(path, metadata, set(file.keys()))
            _check_memory(path, codecs)
            # The library maps the file; a copy stays valid when the file is changed later.
            loaded = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as problem:
        raise _unreadable(path, problem) from problem
    for name, note in codecs.items():
        loaded[name] = _decode(loaded[name], note, f"{path}: {name}")
    hidden = {note["of"] for note in aliases.values() if "stride" in note}
    shared = {name: restore_alias(loaded[note["of"]], note, f"{path}: {name}") for name, note in aliases.items()}
    return {name: tensor for name, tensor in loaded.items() if name not in hidden} | shared


def load_metadata(path: str | Path) -> dict[str, str]:
    """Read the metadata that was given to `save_tensors`, without the tensors. Errors are those of `load_tensors`."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except (SafetensorError, OSError) as problem:
        raise _unreadable(path, problem) from problem
    return {key: value for key, value in metadata.items() if key not in RESERVED}


def _all_metadata(metadata: Mapping[Any, Any], aliases: dict[str, Any], codecs: dict[str, Any]) -> dict[str, str]:
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str) or key in RESERVED:
            raise ArtifactError(
                f"metadata {key!r}: {value!r}; use strings, and a key other than {' or '.join(RESERVED)}"
            )
    notes = {"aliases": aliases, "codecs": codecs}
    return dict(metadata) | {key: json.dumps(note, sort_keys=True) for key, note in notes.items() if note}


def _write(path: Path, entries: Mapping[str, tuple[str, list[int], Bytes]], metadata: dict[str, str]) -> None:
    """Write the safetensors format: the header's length (8 bytes, little endian), the header (JSON), the bytes.

    The library's own writer orders the metadata at random, so that equal tensors would give different hashes.
    """
    # Widest elements first keeps every tensor aligned.
    order = sorted(entries, key=lambda name: (-DTYPES[entries[name][0]].itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name in order:
        dtype, shape, raw = entries[name]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + raw.size]}
        end += raw.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_file(path, size_bytes=8 + len(text) + end) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(entries[name][2].data)


def _read_notes(path: Path, metadata: Mapping[str, str], names: set[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parse and check the aliases and codecs of a file, before any tensor is read."""
    try:
        aliases, codecs = (json.loads(metadata.get(key, "{}")) for key in RESERVED)
        sound = all(is_alias(note, names) for note in aliases.values()) and not aliases.keys() & names
        sound = sound and all(name in names and _is_codec(note) for name, note in codecs.items())
    except (ValueError, TypeError, AttributeError, RecursionError) as problem:
        raise _unreadable(path, problem) from problem
    if not sound:
        raise _unreadable(path, "its notes on aliases or codecs contradict its tensors")
    return aliases, codecs


def _is_codec(note: Any) -> bool:
    return (
        isinstance(note, dict)
        and note.keys() == {"codec", "dtype", "shape"}
        and note["codec"] in CODECS
        and note["dtype"] in DTYPES
        and is_shape(note["shape"])
    )


def _check_memory(path: Path, codecs: Mapping[str, Any]) -> None:
    """Compressed tensors may claim any size: refuse a sum that this machine could never hold."""
    claimed = sum(_count(note["shape"]) * DTYPES[note["dtype"]].itemsize for note in codecs.values())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if claimed > memory:
        raise ArtifactError(
            f"{path} claims {claimed:,} bytes of tensors and this machine has {memory:,} bytes of memory; "
            "the file is damaged, or was made for a larger machine"
        )


def _decode(packed: Tensor, note: Mapping[str, Any], what: str) -> Tensor:
    dtype = DTYPES[note["dtype"]]
    raw = CODECS[note["codec"]].decode(to_bytes(packed), dtype.itemsize, _count(note["shape"]), what)
    return from_bytes(raw, dtype, tuple(note["shape"]))


def _count(shape: list[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _unreadable(path: str | Path, problem: object) -> ArtifactError:
    why = problem.strerror if isinstance(problem, OSError) and problem.strerror else problem
    return ArtifactError(f"{path} cannot be read as safetensors: {why}; save it again or take another copy")
