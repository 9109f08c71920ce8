"""A writer killed at any instant loses nothing that it acknowledged, and leaves nothing half done."""

import multiprocessing
import os
import random
import time
from pathlib import Path
from typing import Any

import torch

from penjing.runs import RunFolder, read_best, read_journal
from penjing.storage import (
    Manifest,
    atomic_folder,
    load_checkpoint,
    load_tensors,
    read_manifest,
    save_checkpoint,
    save_tensors,
    write_manifest,
)
from penjing.types import Status

IDENTITY = {"model": "ab12"}
KILLS = 25


def write_candidate(path: Path, value: int) -> None:
    with atomic_folder(path) as folder:
        save_tensors(folder / "weights.safetensors", {"w": torch.full((500,), value)})
        (folder / "note").write_text(str(value))
        write_manifest(folder, Manifest(kind="model", extra={"value": value}))


def work(path: Path, acknowledge: Any) -> None:
    """Do what a search does, for ever: candidate, pointer, event; a new checkpoint; an old candidate replaced."""
    with RunFolder.open(path, IDENTITY) as run:
        while True:
            value = len(run.journal.events()) + 1
            write_candidate(run.candidate(f"c{value}"), value)
            run.set_best(f"c{value}", Status.SEARCH_ESTIMATE)
            save_checkpoint(path / "state.checkpoint", tensors={"w": torch.full((500,), value)}, data={"step": value})
            acknowledge.send(run.journal.append("candidate", value=value, filling="x" * (value * 997 % 9000))["seq"])
            write_candidate(run.candidate("replaced"), value)


def whole(folder: Path) -> int:
    """Check that a candidate is all of one piece; give its value."""
    value: int = read_manifest(folder).extra["value"]
    assert (folder / "note").read_text() == str(value)
    assert torch.equal(load_tensors(folder / "weights.safetensors")["w"], torch.full((500,), value))
    return value


def test_kill_at_any_instant(tmp_path: Path) -> None:
    path = tmp_path / "run"
    chance = random.Random(0)
    acknowledged = 0
    for _ in range(KILLS):
        ours, theirs = multiprocessing.Pipe(duplex=False)
        writer = multiprocessing.get_context("fork").Process(target=work, args=(path, theirs))
        writer.start()
        theirs.close()
        assert ours.poll(30)  # it has begun
        time.sleep(chance.uniform(0, 0.03))
        writer.kill()
        writer.join()
        try:
            while True:
                acknowledged = ours.recv()
        except (EOFError, OSError):
            ours.close()

        for reopen in (False, True):  # as a reader finds it, and after the next writer has cleared up
            if reopen:
                RunFolder.open(path, IDENTITY).close()
            events = read_journal(path)
            assert [event["value"] for event in events] == list(range(1, len(events) + 1))
            assert acknowledged <= len(events) <= acknowledged + 1
            best = read_best(path)
            assert best is not None
            assert whole(best.path) == int(best.candidate[1:]) >= len(events)
            assert 0 <= whole(path / "best") - len(events) <= 1
            checkpoint = load_checkpoint(path / "state.checkpoint")
            assert torch.equal(checkpoint.tensors["w"], torch.full((500,), checkpoint.data["step"]))
            assert checkpoint.data["step"] >= len(events)
            for folder in (path / "candidates").glob("[!.]*"):
                whole(folder)
        assert not [name for name in os.listdir(path / "candidates") if name.startswith(".")]
    assert acknowledged >= KILLS
