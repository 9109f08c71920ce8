"""Figures that are measured once for a machine and kept: JSON files under the user's cache folder."""

from pathlib import Path
from typing import Any

from penjing.measuring.machine import machine
from penjing.storage import atomic_write, dump_json, load_json, user_folder


def cache_folder() -> Path:
    """Give the folder of this machine's figures: $PENJING_HOME, else $XDG_CACHE_HOME/penjing, else ~/.cache/penjing."""
    return user_folder("CACHE", ".cache") / machine().fingerprint


def read_cached(name: str) -> Any | None:
    """Read what was kept under a name; None if there is nothing, or nothing readable: it is measured again then."""
    path = cache_folder() / f"{name}.json"
    try:
        return load_json(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def keep(name: str, figures: Any) -> Path:
    """Keep JSON values under a name and give the file."""
    path = cache_folder() / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, dump_json(figures, what=f"the figures {name}"))
    return path
