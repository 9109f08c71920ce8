"""Writes that happen as a whole or not at all.

Content goes to a temporary sibling, is flushed to the disk, and takes its final name by one rename. A process that is
killed leaves the old content or the new, and perhaps a sibling `.<name>.<random>.tmp`, which `remove_leftovers` clears.
"""

import ctypes
import errno
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from penjing.errors import ArtifactError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def atomic_write(path: str | Path, data: bytes | str) -> None:
    """Write a whole file at once; text is UTF-8. The folder is made if need be.

    Raises ArtifactError when it cannot be written, a full disk included; the old content survives.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "note.txt"
    >>> atomic_write(path, "kept whole")
    >>> path.read_text()
    'kept whole'
    """
    content = data.encode() if isinstance(data, str) else data
    with atomic_file(path, size_bytes=len(content)) as temporary, _explained(Path(path)):
        temporary.write_bytes(content)


@contextmanager
def atomic_file(path: str | Path, *, size_bytes: int | None = None) -> Iterator[Path]:
    """Yield a temporary sibling to write to; it becomes `path` when the block ends well and is removed when it fails.

    `size_bytes` is the size to come, where known: it is told when the disk is full. Errors are those of `atomic_write`.
    """
    target = Path(path)
    temporary = _sibling(target)
    with _cleaned(target, temporary, size_bytes):
        with _explained(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with _explained(target):
            sync(temporary)
            os.replace(temporary, target)
            sync(target.parent)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling folder; it becomes `path` when the block ends well and is removed when it fails.

    A folder that was there is replaced as a whole: on Linux the two are exchanged by one system call, elsewhere
    `path` is absent for an instant. Every file is flushed to the disk before the rename.
    Raises ArtifactError when it cannot be written, a full disk included; the old content survives.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "model"
    >>> with atomic_folder(path) as folder:
    ...     _ = (folder / "weights").write_text("whole")
    >>> [file.name for file in path.iterdir()]
    ['weights']
    """
    target = Path(path)
    temporary = _sibling(target)
    with _cleaned(target, temporary):
        with _explained(target):
            temporary.mkdir(parents=True)
        yield temporary
        with _explained(target):
            _sync_tree(temporary)
            _replace_folder(temporary, target)
            sync(target.parent)


def remove_leftovers(folder: str | Path) -> None:
    """Remove what killed writers left in this folder; only for who knows that no writer is alive."""
    for leftover in Path(folder).glob(".*.tmp"):
        _remove(leftover)


def sync(path: str | Path) -> None:
    """Flush one file or folder to the disk; a folder's flush makes its names durable, not its files."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_disk_full(problem: BaseException) -> bool:
    """Whether an error says that the disk, or the quota, is full; native writers say so only in words."""
    if isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left on device" in str(problem)


def _sibling(target: Path) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")


@contextmanager
def _cleaned(target: Path, temporary: Path, size_bytes: int | None = None) -> Iterator[None]:
    """Whatever happens, Ctrl-C included, leave no temporary behind; explain a full disk, whoever met it."""
    try:
        yield
    except BaseException as problem:
        needed = _size(temporary) if size_bytes is None else size_bytes
        _remove(temporary)
        if is_disk_full(problem):
            raise ArtifactError(
                f"{target} could not be written: the disk is full ({needed:,} bytes were to be written, "
                f"{_free_bytes(target.parent):,} are free); free some space or choose a folder on another disk; "
                "what was there before is kept"
            ) from problem
        raise


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    """Turn the errors of our own file operations into ArtifactErrors; `_cleaned` explains a full disk."""
    try:
        yield
    except OSError as problem:
        if is_disk_full(problem):
            raise
        raise ArtifactError(
            f"{target} could not be written: {problem.strerror}; choose a path that you can write to"
        ) from problem


def _sync_tree(folder: Path) -> None:
    for root, _, names in os.walk(folder):
        for name in names:
            file = Path(root, name)
            if not file.is_symlink():
                sync(file)
        sync(root)


def _replace_folder(new: Path, target: Path) -> None:
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise NotADirectoryError(errno.ENOTDIR, "a file or link is in the place of the folder", str(target))
    if not target.exists():
        new.rename(target)
        return
    aside = new
    if not _exchange(new, target):
        aside = _sibling(target)
        target.rename(aside)
        try:
            new.rename(target)
        except OSError:
            aside.rename(target)
            raise
    _remove(aside)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step; False where the system or the file system cannot."""
    rename: Any = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def _remove(path: Path) -> None:
    """Remove a file or a folder as far as possible; what resists keeps a name that `remove_leftovers` knows."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if file.is_file())


def _free_bytes(folder: Path) -> int:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free
