"""The machine that figures were taken on: a figure without its machine says nothing."""

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from penjing.storage import fingerprint, library_versions

# What decides which kernels run: vector widths, integer dot products, half floats, matrix tiles.
_X86 = {"sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni"}
_X86_HALF_AND_TILES = {"avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"}
_ARM = {"asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"}
_INSTRUCTIONS = _X86 | _X86_HALF_AND_TILES | _ARM


@dataclass(frozen=True)
class Machine:
    """Processor, memory, system and library versions; `fingerprint` names them all in twelve characters."""

    cpu: str
    instructions: tuple[str, ...]
    cores: int
    memory_bytes: int
    system: str
    versions: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """Short hash: figures of equal fingerprints may be compared."""
        return fingerprint(self.to_data())[:12]

    def to_data(self) -> dict[str, Any]:
        """Give the machine as JSON values."""
        return asdict(self) | {"instructions": list(self.instructions), "versions": dict(self.versions)}

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> "Machine":
        """Read what `to_data` gave."""
        return Machine(**{**data, "instructions": tuple(data["instructions"])})

    def __str__(self) -> str:
        widest = [
            name for name in ("avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm") if self.has(name)
        ]
        return f"{self.cpu}, {self.cores} cores{', ' if widest else ''}{' '.join(widest)}"

    def has(self, instruction: str) -> bool:
        """Tell whether the processor has an instruction set, named as Linux does: "avx512_vnni"."""
        return instruction in self.instructions


def machine() -> Machine:
    """Describe this machine.

    >>> machine().cores >= 1
    True
    >>> Machine.from_data(machine().to_data()) == machine()
    True
    """
    cpu, flags = _cpu(Path("/proc/cpuinfo"))
    return Machine(
        cpu=cpu or platform.processor() or platform.machine(),
        instructions=tuple(sorted(flags & _INSTRUCTIONS)),
        cores=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.machine()}",
        versions=library_versions(),
    )


def _cpu(cpuinfo: Path) -> tuple[str, frozenset[str]]:
    """Read the model name and the flags of the first processor; both empty where the file does not exist."""
    if not cpuinfo.exists():
        return "", frozenset()
    fields: dict[str, str] = {}
    for line in cpuinfo.read_text().splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    flags = fields.get("flags") or fields.get("Features") or ""
    return fields.get("model name", ""), frozenset(flags.split())
