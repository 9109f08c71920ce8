"""Which kernels a runtime runs a file with, as it says itself, and how long each takes.

A runtime joins in by two methods beside `export` and `load`: `kernels(folder, options) -> list[Kernel]` reads the graph
that the runtime made of the file when it loaded it, and `times(folder, options, arrays, calls)` asks it for its own
clock. Without them the kernels and their times are unknown in all reports.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from penjing.runtimes.base import Runtime
from penjing.runtimes.signature import Array


@dataclass(frozen=True, slots=True)
class Kernel:
    """One operator that a runtime executes.

    kind: its name there. integer: whether it computes on integers. operators: those of the file that are fused into it,
    by their names there, in order. reads, writes: names of tensors, or of the operators and constants they are from.
    """

    kind: str
    integer: bool
    operators: tuple[str, ...]
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()


@runtime_checkable
class TellsKernels(Protocol):
    """A runtime that says which kernels it runs."""

    def kernels(self, folder: Path, options: Mapping[str, Any]) -> list[Kernel]:
        """Load what `export` wrote and list what is executed; raises RuntimeUnavailable as `load` does."""
        ...


@runtime_checkable
class TellsTimes(TellsKernels, Protocol):
    """A runtime that times its kernels."""

    def times(
        self, folder: Path, options: Mapping[str, Any], arrays: Sequence[Array], calls: int
    ) -> Mapping[str, float]:
        """Run what `export` wrote and give the milliseconds of each operator in a call, by its name in `kernels`."""
        ...


def kernels_of(runtime: Runtime, folder: Path, options: Mapping[str, Any]) -> list[Kernel] | None:
    """List the kernels of a file; None where the runtime does not tell them."""
    return runtime.kernels(folder, options) if isinstance(runtime, TellsKernels) else None
