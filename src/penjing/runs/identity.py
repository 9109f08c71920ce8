"""What a run and a candidate are made of, and whether two of them are the same."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from penjing.errors import RunError
from penjing.storage import atomic_write, canonical_json, dump_json, fingerprint, library_versions, load_json

SCHEMA = 1
NAME = "identity.json"


def candidate_hash(*, weights: str, recipe: Any, data: str, **settings: Any) -> str:
    """Name a candidate by all that decides what it is: 16 hexadecimal digits.

    weights and data are fingerprints, recipe is plain (`Recipe.to_data()`), settings is whatever else decides: the
    runtime, the seed. The versions of the libraries that compute count too.

    >>> one = candidate_hash(weights="ab", recipe=[{"quantize": {"scheme": "int8"}}], data="cd", seed=0)
    >>> one == candidate_hash(weights="ab", recipe=[{"quantize": {"scheme": "int8"}}], data="cd", seed=1)
    False
    """
    parts = {"weights": weights, "recipe": recipe, "data": data, "settings": settings, "versions": library_versions()}
    return fingerprint(parts)[:16]


def write_identity(folder: Path, identity: Mapping[str, Any]) -> None:
    """Say, in the folder, what its run is."""
    atomic_write(folder / NAME, dump_json({"schema": SCHEMA, "identity": identity}, what="identity", indent=2) + "\n")


def check_identity(folder: Path, identity: Mapping[str, Any]) -> None:
    """Raise RunError, naming each difference, unless the folder's run is the one that is asked for."""
    path = folder / NAME
    elsewhere = "choose another folder, or remove this one to start again"
    try:
        stored = load_json(path.read_bytes())
        schema, old = stored["schema"], stored["identity"]
    except OSError as problem:
        raise RunError(
            f"{folder} holds a run whose {NAME} cannot be read ({problem.strerror}); {elsewhere}"
        ) from problem
    except (ValueError, TypeError, KeyError) as problem:
        raise RunError(f"{path} is damaged ({problem!r}); {elsewhere}") from problem
    if schema != SCHEMA:
        raise RunError(
            f"{folder} holds a run of schema {schema!r} and this version of Penjing reads schema {SCHEMA}; "
            f"install the version that wrote it, or {elsewhere}"
        )
    new = load_json(canonical_json(identity, what="identity"))
    if differences := list(_differences(old, new)):
        raise RunError(f"{folder} holds another run; {elsewhere}. What differs: " + "; ".join(differences))


def _differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), f"{where}.{key}" if where else key)
    elif canonical_json(old) != canonical_json(new):  # as text: NaN equals itself
        yield f"{where} was {_show(old)} and is now {_show(new)}"


def _show(value: Any) -> str:
    return "absent" if value is None else repr(value)
