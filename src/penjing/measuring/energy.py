"""Energy where the machine tells it: the counters of the processor packages (RAPL, by Linux's powercap tree).

    joules per call = (E_run - P_idle t) / calls

E_run is what all packages took during t seconds of calls, P_idle what they take while nothing is called: whatever else
runs on the machine in either part is in the figure. Khan et al. 2018, "RAPL in Action" (doi:10.1145/3177754), on how
far the counters can be trusted.
"""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from penjing.measuring.paired import session_call, threads_of
from penjing.measuring.timing import undisturbed, warm_up
from penjing.runtimes import Artifact
from penjing.workload import ExampleInputs

ROOT = Path("/sys/class/powercap")
_STEP_S = 1.0  # between readings: a counter wraps after a minute or more


@dataclass(frozen=True)
class Energy:
    """Joules of one call above idle, and watts while running and idle; None, with the reason, where they are not told.

    A call that takes less than the idle packages vary can come out at or below 0: it is then too short to be told.
    """

    joules_per_call: float | None
    watts: float | None
    idle_watts: float | None
    calls: int
    batch: int
    reason: str | None

    def to_data(self) -> dict[str, Any]:
        """Give the energy as JSON values."""
        return asdict(self)

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> "Energy":
        """Read what `to_data` gave."""
        return Energy(**data)

    def __str__(self) -> str:
        if self.joules_per_call is None:
            return f"not told: {self.reason}"
        return (
            f"{self.joules_per_call:.3g} J a call of batch {self.batch} above idle "
            f"({self.watts:.3g} W running, {self.idle_watts:.3g} W idle)"
        )


@dataclass(frozen=True)
class Package:
    """The energy counter of one processor package; it starts again from 0 after `range_uj` microjoules."""

    path: Path
    range_uj: int

    def read(self) -> int:
        """Read the counter, in microjoules."""
        return int((self.path / "energy_uj").read_text())

    def used(self, before: int, after: int) -> int:
        """Microjoules between two readings, one wrap at most.

        >>> Package(Path("intel-rapl:0"), 1000).used(900, 100)
        201
        """
        return after - before if after >= before else after - before + self.range_uj + 1


def packages(root: Path = ROOT) -> tuple[Package, ...]:
    """Find the readable counters of whole packages; their parts (cores, memory) would count twice.

    Raises OSError, which says why, where there is none.
    """
    found = sorted(path for path in root.glob("intel-rapl:*") if re.fullmatch(r"intel-rapl:\d+", path.name))
    if not found:
        raise FileNotFoundError(f"{root} holds no intel-rapl:N, the counters of RAPL")
    made = tuple(Package(path, int((path / "max_energy_range_uj").read_text())) for path in found)
    for each in made:
        each.read()  # root alone may, on most systems since 2020 (CVE-2020-8694)
    return made


def energy(artifact: Artifact, example_inputs: Any, *, seconds: float = 2.0, root: Path = ROOT) -> Energy:
    """Measure the energy of a call: idle for `seconds`, then call for `seconds`. root: of the powercap tree."""
    example = ExampleInputs.of(example_inputs)
    try:
        counters = packages(root)
    except OSError as problem:
        return Energy(None, None, None, 0, example.batch_size, str(problem))
    with undisturbed(threads_of(artifact)):
        call = session_call(artifact, example)
        warm_up(call, seconds / 4)
        idle_j, idle_s, _ = _spend(counters, lambda: time.sleep(0.01), seconds)
        run_j, run_s, calls = _spend(counters, call, seconds)
    idle_watts = idle_j / idle_s
    return Energy((run_j - idle_watts * run_s) / calls, run_j / run_s, idle_watts, calls, example.batch_size, None)


def _spend(
    counters: tuple[Package, ...], call: Callable[[], object], seconds: float, step_s: float = _STEP_S
) -> tuple[float, float, int]:
    """Call for `seconds`; give joules, seconds and calls."""
    microjoules = calls = 0
    start = now = read = time.perf_counter()
    before = [each.read() for each in counters]
    while now < start + seconds:
        call()
        calls += 1
        now = time.perf_counter()
        if now >= min(read + step_s, start + seconds):
            after = [each.read() for each in counters]
            microjoules += sum(each.used(*pair) for each, *pair in zip(counters, before, after, strict=True))
            before, read = after, now
    return microjoules / 1e6, now - start, calls
