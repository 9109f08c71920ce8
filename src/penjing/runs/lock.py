"""One writer at a time: a lock on a file that the system releases when its process ends, however it ends."""

import fcntl
import os
from pathlib import Path

from penjing.errors import RunError


class Lock:
    """An exclusive lock, held from construction to `release`. Raises RunError, naming the holder, if it is taken."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as problem:
            holder = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._descriptor)
            raise RunError(
                f"{path.parent} is in use by process {holder}; wait until it ends, stop it, or choose another folder"
            ) from problem
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let go; the file stays, because removing it would let two processes lock two files of one name."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
