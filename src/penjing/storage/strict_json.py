"""Plain values as strict JSON: one text for one value, with NaN and infinities kept.

JSON has no NaN, and Python's own spelling of it breaks every other reader. Non-finite floats are therefore written as
{"$float": "nan" | "inf" | "-inf"} and come back as floats.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from penjing.errors import ArtifactError

_FLOAT = "$float"


def dump_json(data: Any, *, what: str = "data", indent: int | None = None) -> str:
    """Write plain values as JSON that any reader accepts.

    Plain values are None, bool, int, float, str, lists, tuples (written as lists), dicts with string keys and
    numpy scalars. Raises ArtifactError naming the path inside `what` for anything else. The keys keep their order.

    >>> dump_json({"drop": float("nan"), "widths": (3, 4)})
    '{"drop": {"$float": "nan"}, "widths": [3, 4]}'
    """
    try:
        return json.dumps(_plain(data, what), allow_nan=False, indent=indent)
    except RecursionError:
        raise ArtifactError(f"{what} is nested too deeply, or holds itself; give plain values") from None


def load_json(text: str | bytes) -> Any:
    """Read what `dump_json` wrote. Raises ValueError for text that is not JSON.

    >>> load_json('{"drop": {"$float": "-inf"}}')
    {'drop': -inf}
    """
    try:
        return json.loads(text, object_hook=_untag)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def canonical_json(data: Any, *, what: str = "data") -> str:
    """Write plain values so that equal values give equal text: sorted keys, no spaces, ASCII.

    >>> canonical_json({"b": 1, "a": [1.0, True, None]})
    '{"a":[1.0,true,null],"b":1}'
    """
    try:
        return json.dumps(_plain(data, what), allow_nan=False, sort_keys=True, separators=(",", ":"))
    except RecursionError:
        raise ArtifactError(f"{what} is nested too deeply, or holds itself; give plain values") from None


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {_FLOAT: str(float(value))}
    if isinstance(value, str):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str) or key == _FLOAT:
                raise ArtifactError(f"{where} has the key {key!r}; use a string other than {_FLOAT!r}")
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    raise ArtifactError(
        f"{where} is a {type(value).__name__}, which JSON cannot hold; use None, bool, int, float, str, lists or dicts"
    )


def _untag(value: dict[str, Any]) -> Any:
    return float(value[_FLOAT]) if value.keys() == {_FLOAT} else value
