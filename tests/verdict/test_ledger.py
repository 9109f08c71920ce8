import json
import multiprocessing
from pathlib import Path

import pytest

from penjing.errors import ArtifactError
from penjing.verdict import Ledger
from penjing.verdict.ledger import default_folder


def test_looks_count_families_of_the_same_data(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert ledger.looks("aa") == 0
    assert ledger.look("aa", "run 1", "first") == 1
    assert ledger.look("aa", "run 1", "resumed") == 1
    assert ledger.look("bb", "run 2") == 1
    assert ledger.look("aa", "run 2") == 2
    entries = [json.loads(line) for line in ledger.path.read_text().splitlines()]
    assert [entry["what"] for entry in entries] == ["first", "resumed", "", ""]


def test_a_torn_line_hides_no_look_and_spoils_no_later_one(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.look("aa", "run 1")
    with ledger.path.open("a") as file:
        file.write('{"time": "2026", "data": "aa", "fam')
    assert ledger.looks("aa") == 2
    assert ledger.look("aa", "run 2") == 3
    assert ledger.looks("bb") == 0


def _look(folder: Path, family: str) -> None:
    for i in range(20):
        Ledger(folder).look("aa", f"{family} {i}", "x" * 2000)


def test_processes_do_not_tear_each_others_lines(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_look, args=(tmp_path, str(i))) for i in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    lines = Ledger(tmp_path).path.read_text().splitlines()
    assert len({json.loads(line)["family"] for line in lines}) == 80


def test_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PENJING_HOME", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".local" / "state" / "penjing"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert default_folder() == tmp_path / "state" / "penjing"
    monkeypatch.setenv("PENJING_HOME", str(tmp_path / "home"))
    assert Ledger().path == tmp_path / "home" / "ledger.jsonl"


def test_an_unwritable_ledger_names_itself_and_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArtifactError, match=r"ledger\.jsonl cannot be written .* PENJING_HOME"):
        Ledger(tmp_path / "file").look("aa", "run 1")
