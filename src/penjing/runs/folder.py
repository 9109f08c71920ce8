"""The folder of a run: journal, candidates, the best so far, and a lock against a second writer.

identity.json     what the run is: model, data, contract, version
journal.jsonl     what happened, in order: the truth
candidates/<name> one folder each, whole or absent
best.json         which candidate is the best so far, and its status; `best` is a link to it where links exist
scratch/<name>    what may be thrown away at any time
lock              held by the writer
"""

import os
import re
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from penjing.errors import RunError
from penjing.runs.identity import check_identity, write_identity
from penjing.runs.journal import NAME as JOURNAL
from penjing.runs.journal import Journal
from penjing.runs.lock import Lock
from penjing.storage import atomic_write, dump_json, fingerprint, load_json, remove_leftovers, sync
from penjing.types import Status

CANDIDATES, SCRATCH, BEST, LINK, LOCK = "candidates", "scratch", "best.json", "best", "lock"


@dataclass(frozen=True, slots=True)
class Best:
    """The best candidate so far: its name, how much is known of it, and its folder."""

    candidate: str
    status: Status
    path: Path


class RunFolder:
    """The folder of one run, made if need be and locked until `close`; also a context manager.

    Raises RunError, naming the process, if another one has it. Readers take `read_journal` and `read_best`, which lock
    nothing.

    >>> import tempfile
    >>> from penjing.storage import atomic_folder
    >>> with RunFolder.open(tempfile.mkdtemp(), {"model": "ab12"}) as run:
    ...     with atomic_folder(run.candidate("c0ffee")) as folder:
    ...         _ = (folder / "weights").write_text("whole")
    ...     run.set_best("c0ffee", Status.SEARCH_ESTIMATE)
    ...     _ = run.journal.append("candidate", hash="c0ffee")
    >>> read_best(run.path).candidate
    'c0ffee'
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.identity: Mapping[str, Any] = {}
        try:
            for name in (CANDIDATES, SCRATCH):
                (self.path / name).mkdir(parents=True, exist_ok=True)
            sync(self.path.resolve().parent)
            self._lock = Lock(self.path / LOCK)
        except OSError as problem:
            raise RunError(f"{path} cannot be used for a run: {problem.strerror}; choose another folder") from problem
        try:
            for folder in (self.path, self.path / CANDIDATES, self.path / SCRATCH):
                remove_leftovers(folder)
            self.journal = Journal(self.path / JOURNAL)
        except BaseException:
            self._lock.release()
            raise

    @classmethod
    def open(cls, path: str | Path, identity: Mapping[str, Any], resume: bool = True) -> "RunFolder":
        """Lock a folder for the run with this identity, plain values that decide what the run is; begin it or go on.

        Raises RunError if the folder holds a run with another identity, naming each difference, and if it holds any run
        and `resume` is False: nothing is ever thrown away.
        """
        run = cls(path)
        try:
            if not run.journal.events() and not run.candidates():
                write_identity(run.path, identity)
            elif resume:
                check_identity(run.path, identity)
            else:
                raise RunError(
                    f"{path} holds a run ({len(run.journal.events())} events, {len(run.candidates())} candidates) and "
                    "resume=False; resume it, choose another folder, or remove this one"
                )
        except BaseException:
            run.close()
            raise
        run.identity = identity
        return run

    @property
    def identity_hash(self) -> str:
        """Fingerprint of the run's identity."""
        return fingerprint(self.identity)

    def candidate(self, name: str) -> Path:
        """Give the folder of a candidate, there or not; written by `atomic_folder`, so that it is whole or absent."""
        return self.path / CANDIDATES / _safe(name)

    def candidates(self) -> tuple[str, ...]:
        """Name the candidates that are there, in alphabetical order."""
        return tuple(sorted(f.name for f in (self.path / CANDIDATES).iterdir() if not f.name.startswith(".")))

    def scratch(self, name: str) -> Path:
        """Give a folder, made if need be, for what may be thrown away: probes, checkpoints of a training."""
        folder = self.path / SCRATCH / _safe(name)
        folder.mkdir(exist_ok=True)
        return folder

    def clear_scratch(self) -> None:
        """Throw away what `scratch` holds."""
        for folder in (self.path / SCRATCH).iterdir():
            shutil.rmtree(folder, ignore_errors=True)

    def set_best(self, name: str, status: Status) -> None:
        """Point at the best candidate so far, atomically. Raises RunError if it is not there."""
        if not self.candidate(name).is_dir():
            raise RunError(
                f"{self.path}: candidate {name!r} is not there; write it before pointing at it "
                f"(there are {', '.join(self.candidates()) or 'none'})"
            )
        best = {"candidate": name, "status": Status(status)}
        atomic_write(self.path / BEST, dump_json(best) + "\n")
        _link(self.path / LINK, Path(CANDIDATES, name))

    def best(self) -> Best | None:
        """Give the best candidate so far, None before there is one."""
        return read_best(self.path)

    def close(self) -> None:
        """Release the lock."""
        self._lock.release()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_best(path: str | Path) -> Best | None:
    """Give the best candidate of the run in a folder, while it runs or after; None before there is one.

    Raises RunError if the pointer is damaged or leads nowhere.
    """
    pointer = Path(path) / BEST
    try:
        content = load_json(pointer.read_bytes())
        name, status = _safe(content["candidate"]), Status(content["status"])
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, RunError) as problem:
        raise RunError(f"{pointer} is damaged ({problem}); remove it and resume the run") from problem
    folder = Path(path) / CANDIDATES / name
    if not folder.is_dir():
        raise RunError(f"{pointer} points at {folder}, which is not there; put it back, or remove {BEST} and resume")
    return Best(name, status, folder)


def _link(link: Path, target: Path) -> None:
    """Replace a relative link; where the file system has no links, `best.json` alone says it."""
    temporary = link.with_name(f".{link.name}.{secrets.token_hex(6)}.tmp")
    with suppress(OSError):
        temporary.symlink_to(target, target_is_directory=True)
        os.replace(temporary, link)


def _safe(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise RunError(f"{name!r} cannot name a folder of a run; use letters, digits, '.', '_' and '-'")
    return name
