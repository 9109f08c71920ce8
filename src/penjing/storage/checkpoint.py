"""State of optimizers, schedulers and random generators in one safetensors file, without pickle.

Tensors and numpy arrays go to safetensors entries; everything else goes to JSON in the metadata, in which what JSON
lacks is an object with a single tag:

    {"float": "nan"}  {"tuple": [...]}  {"dict": [[key, value], ...]}  {"ordered": ...}  {"counter": ...}
    {"tensor": entry}  {"array": entry}  {"scalar": entry}
"""

import json
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from penjing.errors import ArtifactError
from penjing.storage.raw import check_plain
from penjing.storage.tensors import load_metadata, load_tensors, save_tensors

SCHEMA = "1"
_MAPPINGS: dict[str, type[dict[Any, Any]]] = {"dict": dict, "ordered": OrderedDict, "counter": Counter}
_STATE, _GIVEN = "state/", "tensor/"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What `load_checkpoint` gives back."""

    tensors: dict[str, Tensor]
    data: Any


def save_checkpoint(path: str | Path, *, tensors: Mapping[str, Tensor] | None = None, data: Any = None) -> None:
    """Write named tensors (a model's state_dict) and nested state (of optimizer, scheduler, generators), atomically.

    State is made of None, bool, int, float, str, list, tuple, dict, OrderedDict, Counter, tensors, numpy arrays and
    numpy scalars; keys of dicts may be anything of these that can be a key. Each comes back as what it was; tensors
    come back on the CPU, without gradient, and share memory where they did.
    Raises ArtifactError that names the place in the state for anything else, and when the file cannot be written.

    >>> import tempfile
    >>> from math import inf
    >>> path = Path(tempfile.mkdtemp()) / "epoch-3.checkpoint"
    >>> save_checkpoint(path, data={"state": {0: {"step": torch.tensor(3.0)}}, "betas": (0.9, 0.999), "best": inf})
    >>> load_checkpoint(path).data
    {'state': {0: {'step': tensor(3.)}}, 'betas': (0.9, 0.999), 'best': inf}
    """
    tensors = tensors or {}
    for name, tensor in tensors.items():
        check_plain(name, tensor)
    entries = {_GIVEN + name: tensor for name, tensor in tensors.items()}
    try:
        text = json.dumps(_encode(data, "data", entries), allow_nan=False)
    except RecursionError:
        raise ArtifactError("data is nested too deeply, or holds itself; give plain state") from None
    save_tensors(path, entries, {"checkpoint": SCHEMA, "data": text})


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read what `save_checkpoint` wrote. Raises ArtifactError for a missing, torn, foreign or newer file."""
    metadata = load_metadata(path)
    if "checkpoint" not in metadata or "data" not in metadata:
        raise ArtifactError(f"{path} is no checkpoint of Penjing; give a file that save_checkpoint wrote")
    if metadata["checkpoint"] != SCHEMA:
        raise ArtifactError(
            f"{path} has checkpoint schema {metadata['checkpoint']!r} and this version of Penjing reads {SCHEMA!r}; "
            "install the version that wrote it, or delete the file to start again"
        )
    entries = load_tensors(path)
    try:
        data = _decode(json.loads(metadata["data"]), entries)
    except (ValueError, TypeError, KeyError, RecursionError) as problem:
        raise ArtifactError(f"{path} is a damaged checkpoint ({problem!r}); delete it to start again") from problem
    given = {name.removeprefix(_GIVEN): tensor for name, tensor in entries.items() if name.startswith(_GIVEN)}
    return Checkpoint(given, data)


def _encode(value: Any, where: str, entries: dict[str, Tensor]) -> Any:
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if kind is list:
        return [_encode(item, f"{where}[{i}]", entries) for i, item in enumerate(value)]
    if kind is tuple:
        return {"tuple": [_encode(item, f"{where}[{i}]", entries) for i, item in enumerate(value)]}
    for tag, mapping in _MAPPINGS.items():
        if kind is mapping:
            return {tag: [_encode_item(key, item, where, entries) for key, item in value.items()]}
    if isinstance(value, Tensor):
        return {"tensor": _store(value, where, entries)}
    if isinstance(value, np.ndarray | np.generic):
        try:
            tensor = torch.from_numpy(np.array(value))
        except (TypeError, ValueError) as problem:  # text, objects; foreign byte order
            raise ArtifactError(f"{where} is a numpy array of {value.dtype}; convert it to plain numbers") from problem
        return {"array" if isinstance(value, np.ndarray) else "scalar": _store(tensor, where, entries)}
    raise ArtifactError(
        f"{where} is a {kind.__module__}.{kind.__qualname__}, which a checkpoint cannot hold; convert it to "
        "plain values (None, bool, int, float, str, list, tuple, dict), tensors or numpy arrays"
    )


def _encode_item(key: Any, item: Any, where: str, entries: dict[str, Tensor]) -> list[Any]:
    return [_encode(key, f"{where} key {key!r}", entries), _encode(item, f"{where}[{key!r}]", entries)]


def _store(tensor: Tensor, where: str, entries: dict[str, Tensor]) -> str:
    check_plain(where, tensor)
    name = f"{_STATE}{len(entries)}"
    entries[name] = tensor
    return name


def _decode(value: Any, entries: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, entries) for item in value]
    if not isinstance(value, dict):
        return value
    ((tag, content),) = value.items()
    if tag in _MAPPINGS:
        return _MAPPINGS[tag]({_decode(key, entries): _decode(item, entries) for key, item in content})
    leaves: dict[str, Callable[[], Any]] = {
        "float": lambda: float(content),
        "tuple": lambda: tuple(_decode(item, entries) for item in content),
        "tensor": lambda: entries[content],
        "array": lambda: entries[content].numpy(),
        "scalar": lambda: entries[content].numpy()[()],
    }
    return leaves[tag]()
