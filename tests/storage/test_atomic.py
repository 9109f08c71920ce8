"""Writes are whole or absent, also on a full disk."""

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch

from penjing.errors import ArtifactError
from penjing.storage import atomic, atomic_file, atomic_folder, atomic_write, remove_leftovers, save_tensors


def full(*args: object, **kwargs: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_write_makes_folders_and_replaces_content(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "note.txt"
    atomic_write(path, "größe")
    assert path.read_bytes() == "größe".encode()
    atomic_write(path, b"\x00new")
    assert path.read_bytes() == b"\x00new"
    assert names(path.parent) == ["note.txt"]


@pytest.mark.parametrize("step", ["write_bytes", "fsync", "replace"])
def test_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "note.txt"
    atomic_write(path, "old")
    monkeypatch.setattr(Path if step == "write_bytes" else os, step, full)
    with pytest.raises(
        ArtifactError, match=r"note\.txt could not be written: the disk is full \(3,000 bytes.*free some"
    ):
        atomic_write(path, "n" * 3000)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["note.txt"]


def test_full_disk_keeps_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model"
    with atomic_folder(path) as folder:
        (folder / "weights").write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(ArtifactError, match=r"model could not be written: the disk is full \(7 bytes"),
        atomic_folder(path) as folder,
    ):
        (folder / "weights").write_text("newness")
    assert (path / "weights").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_full_disk_told_in_words_by_a_native_writer_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="disk is full"), atomic_folder(tmp_path / "model"):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    assert names(tmp_path) == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "penjing-test", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a tiny disk takes root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_really_fills_loses_nothing(tiny_disk: Path) -> None:
    atomic_write(tiny_disk / "note.txt", "old")
    save_tensors(tiny_disk / "weights.safetensors", {"w": torch.ones(8)})
    before = (tiny_disk / "weights.safetensors").read_bytes()
    with pytest.raises(ArtifactError, match=r"note\.txt could not be written: the disk is full"):
        atomic_write(tiny_disk / "note.txt", b"x" * 100_000)
    with pytest.raises(ArtifactError, match=r"weights\.safetensors could not be written: the disk is full"):
        save_tensors(tiny_disk / "weights.safetensors", {"w": torch.rand(100_000)})
    with (
        pytest.raises(ArtifactError, match="model could not be written: the disk is full"),
        atomic_folder(tiny_disk / "model") as new,
    ):
        (new / "big").write_bytes(b"x" * 100_000)
    assert (tiny_disk / "note.txt").read_text() == "old"
    assert (tiny_disk / "weights.safetensors").read_bytes() == before
    assert names(tiny_disk) == ["note.txt", "weights.safetensors"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, ValueError])
def test_an_interrupted_block_leaves_no_trace(tmp_path: Path, interruption: type[BaseException]) -> None:
    def interrupted(block: AbstractContextManager[Path], name: str) -> None:
        with block as path:
            (path / name).write_text("half")
            raise interruption

    with pytest.raises(interruption):
        interrupted(atomic_folder(tmp_path / "model"), "weights")
    with pytest.raises(interruption):
        interrupted(atomic_file(tmp_path / "note.txt"), "")
    assert names(tmp_path) == []


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool) -> None:
    if not exchange:  # as on a system without renameat2
        monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    path = tmp_path / "model"
    for name in ("old", "new"):
        with atomic_folder(path) as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / name).write_text(name)
    assert names(path / "sub") == ["new"]
    assert names(tmp_path) == ["model"]


def test_a_failed_swap_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model"
    with atomic_folder(path) as folder:
        (folder / "weights").write_text("old")
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if (self / "weights").read_text() == "new" and target == path:
            raise PermissionError(errno.EACCES, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(ArtifactError, match="Permission denied"), atomic_folder(path) as folder:
        (folder / "weights").write_text("new")
    assert (path / "weights").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_a_file_in_the_place_of_a_folder_is_kept(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("a file")
    with (
        pytest.raises(ArtifactError, match="model could not be written: a file or link is in the place"),
        atomic_folder(tmp_path / "model"),
    ):
        pass
    assert (tmp_path / "model").read_text() == "a file"


def test_an_impossible_path_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"file/note\.txt could not be written: .*choose a path"):
        atomic_write(tmp_path / "file" / "note.txt", "x")
    with (
        pytest.raises(ArtifactError, match=r"file/model could not be written"),
        atomic_folder(tmp_path / "file" / "model"),
    ):
        pass


def test_leftovers_of_killed_writers_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".model.0123.tmp").mkdir()
    (tmp_path / ".model.0123.tmp" / "half").write_text("half")
    (tmp_path / ".note.txt.4567.tmp").write_text("half")
    (tmp_path / ".keep").write_text("")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [".keep"]
