"""The zoo lies beside the package, in benchmarks/: its root is put on the path."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Any]:
    """Every model of the zoo by name."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.zoo import ZOO

    return ZOO
