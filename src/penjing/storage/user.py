"""Where a user's own files lie, apart from any run: what is known of a machine, and who looked at which data."""

import os
from pathlib import Path


def user_folder(kind: str, usual: str) -> Path:
    """Give $PENJING_HOME, else $XDG_<kind>_HOME/penjing, else ~/<usual>/penjing (the XDG base directories)."""
    if home := os.environ.get("PENJING_HOME"):
        return Path(home)
    given = os.environ.get(f"XDG_{kind}_HOME")
    return (Path(given) if given else Path.home() / usual) / "penjing"
