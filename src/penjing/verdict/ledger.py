"""Who looked at which certificate data: one line per look, per user, written before a score is computed.

Every further look at the same data makes it a little less of a surprise, so a verdict says how many came before it.
"""

import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from penjing.errors import ArtifactError
from penjing.storage import user_folder


def default_folder() -> Path:
    """Give the user's folder: $PENJING_HOME, else $XDG_STATE_HOME/penjing, else ~/.local/state/penjing."""
    return user_folder("STATE", ".local/state")


@dataclass(frozen=True, slots=True)
class Ledger:
    """An append-only file of looks, `ledger.jsonl` in the user's state folder.

    Looks of one family (one fixed sequence, with every run that resumes it) count once.

    >>> import tempfile
    >>> ledger = Ledger(Path(tempfile.mkdtemp()))
    >>> ledger.look("3f2a", family="run 1"), ledger.look("3f2a", family="run 1"), ledger.look("3f2a", family="run 2")
    (1, 1, 2)
    """

    folder: Path = field(default_factory=default_folder)

    @property
    def path(self) -> Path:
        """The file itself."""
        return self.folder / "ledger.jsonl"

    def look(self, data: str, family: str, what: str = "") -> int:
        """Write that `family` looks at the data with this fingerprint, and give the number of families that have.

        The line is on disk when this returns. Raises ArtifactError where it cannot be written.
        """
        line = json.dumps({"time": datetime.now(UTC).isoformat(), "data": data, "family": family, "what": what})
        try:
            self._append(line)
        except OSError as problem:
            raise ArtifactError(
                f"the ledger {self.path} cannot be written ({problem.strerror}), and no verdict is given without it; "
                "set PENJING_HOME to a folder that can"
            ) from problem
        return self.looks(data)

    def looks(self, data: str) -> int:
        """Count the families that have looked at the data with this fingerprint.

        A damaged line that names the fingerprint counts as a look of its own: damage never hides one.
        """
        try:
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return 0
        except OSError as problem:
            raise ArtifactError(
                f"the ledger {self.path} cannot be read ({problem.strerror}); set PENJING_HOME to a folder that can"
            ) from problem
        families = set()
        for i, line in enumerate(lines):
            try:
                entry = json.loads(line)
                if entry["data"] == data:
                    families.add(entry["family"])
            except (ValueError, TypeError, KeyError):
                if data in line:
                    families.add(f"damaged line {i}")
        return len(families)

    def _append(self, line: str) -> None:
        import fcntl

        self.folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            size = os.fstat(handle).st_size
            torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"  # a write cut short by a crash
            data = (("\n" if torn else "") + line + "\n").encode()
            if os.write(handle, data) != len(data):
                raise OSError(28, "the disk is full")
            os.fsync(handle)
        finally:
            os.close(handle)
