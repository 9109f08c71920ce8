"""What stops a run in the middle, and how it goes on: Ctrl-C, kill -9, a full disk."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from penjing.errors import ArtifactError, RecipeError
from penjing.optimizing import Run, actions
from penjing.runs import Journal, read_best, read_journal
from penjing.runtimes import RUNTIMES, load
from penjing.storage import atomic

KILLS = 5


def kinds(folder: Path) -> list[str]:
    return [event["event"] for event in read_journal(folder) if event["event"] != "begin"]


def once(problem: BaseException, then: Callable[..., Any], when: Callable[..., bool] = lambda *_, **__: True) -> Any:
    """Give a function that raises the first time it is called as told, and afterwards does what it did before."""
    raised = []

    def function(*args: Any, **kwargs: Any) -> Any:
        if not raised and when(*args, **kwargs):
            raised.append(problem)
            raise problem
        return then(*args, **kwargs)

    return function


def works(folder: Path, name: str = "baseline") -> bool:
    """Whether the best model is this one and can be run."""
    best = read_best(folder)
    assert best is not None
    outputs = load(best.path / "artifact")(torch.zeros(1, 1, 8, 8))
    return best.candidate == name and outputs.shape == (1, 10)


@pytest.mark.parametrize("where", ["apply", "export", "measure"])
def test_ctrl_c_inside_a_candidate(
    where: str, stopped: Callable[[str], Path], weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stopped("lattice")
    monkeypatch.setattr(actions, "candidates", lambda **_: tiny.RECIPES[:1])
    place = type(RUNTIMES["onnxruntime"]) if where == "export" else actions
    monkeypatch.setattr(place, where, once(KeyboardInterrupt(), getattr(place, where)))
    with pytest.raises(KeyboardInterrupt):
        tiny.run(weights, folder)
    assert kinds(folder) == ["baseline", "lattice"], "what was not finished has no event"
    assert works(folder)
    run = tiny.run(weights, folder)
    assert kinds(folder) == ["baseline", "lattice", "candidate", "freeze", "verdict", "finish"]
    assert works(folder, run.front[-1]["hash"])


def test_a_model_that_was_written_is_not_made_again(
    stopped: Callable[[str], Path], weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stopped("lattice")
    monkeypatch.setattr(actions, "candidates", lambda **_: tiny.RECIPES[:1])
    monkeypatch.setattr(
        Journal, "append", once(KeyboardInterrupt(), Journal.append, lambda _, e, **__: e == "candidate")
    )
    with pytest.raises(KeyboardInterrupt):
        tiny.run(weights, folder)
    monkeypatch.setattr(type(RUNTIMES["onnxruntime"]), "export", None)
    run = tiny.run(weights, folder)
    assert run.verdict is not None
    assert kinds(folder).count("candidate") == 1


def test_a_full_disk_ends_the_run_and_blames_no_recipe(
    stopped: Callable[[str], Path], weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stopped("lattice")
    monkeypatch.setattr(actions, "candidates", lambda **_: tiny.RECIPES[:1])
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(
        atomic,
        "_sync_tree",
        once(full, atomic._sync_tree, lambda path: "candidates" in path.parts and "." in path.name),
    )
    with pytest.raises(ArtifactError, match=r"the disk is full .* free some space"):
        tiny.run(weights, folder)
    assert kinds(folder) == ["baseline", "lattice"]
    assert [path.name for path in (folder / "candidates").iterdir()] == ["baseline"], "nothing half written is left"
    assert works(folder)
    run = tiny.run(weights, folder)
    assert run.verdict is not None
    assert works(folder, run.front[-1]["hash"])


def test_a_disk_that_refuses_the_journal(
    stopped: Callable[[str], Path], weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stopped("freeze")
    before = (folder / "journal.jsonl").read_bytes()
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def of_the_journal(descriptor: int) -> bool:
        return os.path.samestat(os.fstat(descriptor), (folder / "journal.jsonl").stat())

    monkeypatch.setattr("penjing.runs.journal.os.fsync", once(full, os.fsync, of_the_journal))
    with pytest.raises(ArtifactError, match=r"'freeze' .* could not be written: the disk is full; .* run resumes"):
        tiny.run(weights, folder)
    assert (folder / "journal.jsonl").read_bytes().startswith(before)


def test_a_recipe_that_cannot_be_applied_is_an_event(
    stopped: Callable[[str], Path], weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stopped("probe")
    monkeypatch.setattr(actions, "apply", once(RecipeError("too narrow to cut"), actions.apply))
    run = tiny.run(weights, folder)
    (failed,) = [event for event in read_journal(folder) if event["event"] == "probe-failed"]
    assert (failed["index"], failed["why"]) == (1, "RecipeError: too narrow to cut")
    assert [event["index"] for event in run.front[1:]] == [0], "what failed as a probe is not trained"


@pytest.mark.slow
def test_kill_at_any_instant(finished: Run, weights: Path, tmp_path: Path) -> None:
    folder, home, chance = tmp_path / "run", tmp_path / "home", random.Random(0)
    command = [sys.executable, tiny.__file__, str(weights), str(folder)]
    environment = os.environ | {"PENJING_HOME": str(home), "OMP_NUM_THREADS": "1"}

    def journal() -> bytes:
        path = folder / "journal.jsonl"
        return path.read_bytes() if path.exists() else b""

    acknowledged: list[bytes] = []
    for _ in range(KILLS):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        try:
            before, end = journal(), time.monotonic() + 60
            while process.poll() is None and journal() == before and time.monotonic() < end:
                time.sleep(0.01)  # until it has written one event
            time.sleep(chance.uniform(0, 2.5))
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        *lines, _torn = journal().split(b"\n")
        assert lines[: len(acknowledged)] == acknowledged, "what was acknowledged stays"
        acknowledged = lines
        assert lines, "the run has begun"
        best = read_best(folder)
        if b'"baseline"' in journal():
            assert best is not None, "the original has been measured"
        if best is not None:
            load(best.path / "artifact")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    events = read_journal(folder)
    counts = Counter((event["event"], event.get("index"), event.get("hash")) for event in events)
    assert set(counts.values()) == {1}, "nothing is done twice"
    assert kinds(folder) == kinds(finished.folder), "the plan is the one of a run left alone"
    chosen = events[-1]["chosen"]
    assert chosen == read_journal(finished.folder)[-1]["chosen"]
    assert works(folder, chosen)
    looks = [json.loads(line) for line in (home / "ledger.jsonl").read_text().splitlines()]
    assert len({look["family"] for look in looks}) == 1
    assert all(event["verdict"]["looks"] == 1 for event in events if event["event"] == "verdict")
    assert list((folder / "scratch").iterdir()) == []
