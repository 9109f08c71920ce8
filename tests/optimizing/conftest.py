"""One finished run of the tiny search, copied by the tests that go on from somewhere in the middle of it."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import tiny

from penjing.optimizing import Run, actions


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Cut short what takes long, and keep the ledger of the user out of it."""
    for name, value in tiny.SHORT.items():
        monkeypatch.setattr(actions, name, value)
    monkeypatch.setenv("PENJING_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "weights.safetensors"
    tiny.workload(path)
    return path


@pytest.fixture(scope="session")
def finished(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    home = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in tiny.SHORT.items():
            patch.setattr(actions, name, value)
        patch.setenv("PENJING_HOME", str(home / "home"))
        return tiny.run(weights, home / "run")


@pytest.fixture
def stopped(finished: Run, tmp_path: Path) -> Callable[[str], Path]:
    """Copy the finished run as it would be had it been stopped before its first event of a kind."""

    def copy(kind: str) -> Path:
        folder = tmp_path / f"before-{kind}"
        shutil.copytree(finished.folder, folder, symlinks=True)
        lines = (folder / "journal.jsonl").read_text().splitlines(keepends=True)
        events = [json.loads(line) for line in lines]
        first = next(i for i, event in enumerate(events) if event["event"] == kind)
        (folder / "journal.jsonl").write_text("".join(lines[:first]))
        for event in events[first:]:
            if event["event"] == "candidate":
                shutil.rmtree(folder / "candidates" / event["hash"])
        (folder / "best.json").unlink()
        (folder / "best").unlink()
        if any(event["event"] == "baseline" for event in events[:first]):
            (folder / "best.json").write_text('{"candidate": "baseline", "status": "search-estimate"}\n')
        return folder

    return copy
