"""Cold start: what the first answer of a new process waits for."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from penjing.measuring.fresh import run_child
from penjing.runtimes import Artifact


@dataclass(frozen=True)
class Spread:
    """Median of several processes, in milliseconds, with the fastest and the slowest."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3g} ms [{self.low:.3g}, {self.high:.3g}]"


@dataclass(frozen=True)
class ColdStart:
    """Import of the runtime, loading (checking the hashes included), and the first run, in new processes.

    Starting Python and importing PyTorch, which a server would not need, do not count. Files are read from where the
    system has them: after the first process, from its page cache.
    """

    import_ms: Spread
    load_ms: Spread
    first_run_ms: Spread
    processes: int
    batch: int

    def to_data(self) -> dict[str, Any]:
        """Give the times as JSON values."""
        return asdict(self)

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> "ColdStart":
        """Read what `to_data` gave."""
        values: dict[str, Any] = {
            name: Spread(**value) if isinstance(value, Mapping) else value for name, value in data.items()
        }
        return ColdStart(**values)

    def __str__(self) -> str:
        return f"import {self.import_ms}, load {self.load_ms}, first run {self.first_run_ms}"


def cold_start(artifact: Artifact, example_inputs: Any, *, processes: int = 3) -> ColdStart:
    """Time the start of a deployed model in new processes, one after the other.

    Raises RunError, with the child's last words, when one fails, ValueError for fewer than 1 process.
    """
    if processes < 1:
        raise ValueError(f"processes={processes}: a start takes at least one process")
    each = [run_child("cold", artifact, example_inputs, 0.0) for _ in range(processes)]

    def spread(name: str) -> Spread:
        values = [one[name] for one in each]
        return Spread(float(np.median(values)), min(values), max(values))

    return ColdStart(
        import_ms=spread("import_ms"),
        load_ms=spread("load_ms"),
        first_run_ms=spread("first_run_ms"),
        processes=processes,
        batch=each[0]["batch"],
    )
