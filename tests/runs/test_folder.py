"""A run folder belongs to one run, has one writer, and points at a candidate that is there."""

import math
import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from penjing.errors import RunError
from penjing.runs import RunFolder, candidate_hash, identity, read_best, read_journal
from penjing.storage import atomic_folder, dump_json
from penjing.types import Status

IDENTITY: dict[str, Any] = {
    "model": "ab12",
    "data": "cd34",
    "contract": {"max_drop": 0.005, "limits": [], "max_latency_ms": None, "low": math.nan},
    "version": "0.1.0",
}


def begin(path: Path) -> None:
    with RunFolder.open(path, IDENTITY) as run:
        run.journal.append("baseline")
        with atomic_folder(run.candidate("c0ffee")) as folder:
            (folder / "weights").write_text("whole")
        run.set_best("c0ffee", Status.SEARCH_ESTIMATE)


def test_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    begin(tmp_path / "runs" / "name")
    with RunFolder.open(tmp_path / "runs" / "name", IDENTITY) as run:
        assert [event["event"] for event in run.journal.events()] == ["baseline"]
        assert run.candidates() == ("c0ffee",)
        best = run.best()
        assert best is not None
        assert (best.candidate, best.status, best.path) == ("c0ffee", Status.SEARCH_ESTIMATE, run.candidate("c0ffee"))
        assert run.identity_hash == RunFolder.open(tmp_path / "other", {**IDENTITY}).identity_hash


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "ef56"}, r"model was 'ab12' and is now 'ef56'"),
        ({"contract": {**IDENTITY["contract"], "max_drop": 0.01}}, r"contract\.max_drop was 0\.005 and is now 0\.01"),
        ({"contract": {**IDENTITY["contract"], "limits": [1]}}, r"contract\.limits was \[\] and is now \[1\]"),
        ({"version": "0.2.0"}, r"version was '0\.1\.0' and is now '0\.2\.0'"),
        ({"seed": 1}, r"seed was absent and is now 1"),
        ({"model": "x", "data": "y"}, r"data was 'cd34' and is now 'y'; model was 'ab12' and is now 'x'"),
    ],
)
def test_a_folder_of_another_run_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    begin(tmp_path)
    with pytest.raises(RunError, match=rf"holds another run; choose another folder, .*What differs: {message}$"):
        RunFolder.open(tmp_path, IDENTITY | change)
    with RunFolder.open(tmp_path, IDENTITY) as run:  # the lock was let go, and nothing was changed
        assert len(run.journal.events()) == 1


def test_a_folder_of_another_schema_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(tmp_path)
    monkeypatch.setattr(identity, "SCHEMA", 2)
    with pytest.raises(RunError, match="holds a run of schema 1 and this version of Penjing reads schema 2; install"):
        RunFolder.open(tmp_path, IDENTITY)


def test_a_run_without_identity_is_refused(tmp_path: Path) -> None:
    begin(tmp_path)
    (tmp_path / "identity.json").write_text("{}")
    with pytest.raises(RunError, match=r"identity\.json is damaged"):
        RunFolder.open(tmp_path, IDENTITY)
    (tmp_path / "identity.json").unlink()
    with pytest.raises(RunError, match=r"whose identity\.json cannot be read"):
        RunFolder.open(tmp_path, IDENTITY)


def test_not_resuming_throws_nothing_away(tmp_path: Path) -> None:
    begin(tmp_path)
    with pytest.raises(RunError, match=r"holds a run \(1 events, 1 candidates\) and resume=False; resume it"):
        RunFolder.open(tmp_path, IDENTITY, resume=False)
    assert len(read_journal(tmp_path)) == 1
    with RunFolder.open(tmp_path / "new", IDENTITY, resume=False) as run:
        assert run.journal.events() == []


def test_a_run_that_never_began_is_no_obstacle_but_its_candidate_is(tmp_path: Path) -> None:
    RunFolder.open(tmp_path, IDENTITY).close()
    with RunFolder.open(tmp_path, IDENTITY | {"model": "ef56"}) as run, atomic_folder(run.candidate("baseline")):
        pass
    with pytest.raises(RunError, match="model was 'ef56' and is now 'ab12'"):
        RunFolder.open(tmp_path, IDENTITY)


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "command.json").write_text("{}")
    begin(tmp_path)
    assert (tmp_path / "command.json").read_text() == "{}"


def hold(path: Path, pipe: Any) -> None:
    with RunFolder.open(path, IDENTITY):
        pipe.send("locked")
        pipe.recv()


def test_a_second_process_is_told_who_has_the_folder(tmp_path: Path) -> None:
    ours, theirs = multiprocessing.Pipe()
    holder = multiprocessing.get_context("fork").Process(target=hold, args=(tmp_path, theirs))
    holder.start()
    assert ours.recv() == "locked"
    with pytest.raises(RunError, match=rf"is in use by process {holder.pid}; wait until it ends"):
        RunFolder.open(tmp_path, IDENTITY)
    assert holder.pid is not None
    holder.kill()
    holder.join()
    RunFolder.open(tmp_path, IDENTITY).close()  # the system has released the lock


def test_the_same_process_cannot_take_it_twice(tmp_path: Path) -> None:
    with RunFolder(tmp_path), pytest.raises(RunError, match=f"in use by process {os.getpid()}"):
        RunFolder(tmp_path)
    run = RunFolder(tmp_path)
    run.close()
    run.close()


def test_readers_need_no_lock(tmp_path: Path) -> None:
    begin(tmp_path)
    with RunFolder.open(tmp_path, IDENTITY) as run:
        run.journal.append("candidate")
        assert [event["event"] for event in read_journal(tmp_path)] == ["baseline", "candidate"]
        assert read_best(tmp_path) == run.best()


def test_best_moves_and_its_link_follows(tmp_path: Path) -> None:
    begin(tmp_path)
    with RunFolder.open(tmp_path, IDENTITY) as run:
        with atomic_folder(run.candidate("beef")) as folder:
            (folder / "weights").write_text("better")
        run.set_best("beef", Status.CERTIFIED)
    best = read_best(tmp_path)
    assert best is not None
    assert best.status is Status.CERTIFIED
    assert (tmp_path / "best" / "weights").read_text() == "better"
    assert os.readlink(tmp_path / "best") == "candidates/beef"
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert (moved / "best" / "weights").read_text() == "better"
    assert read_best(moved) is not None


def test_a_file_system_without_links_keeps_the_pointer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    begin(tmp_path)
    best = read_best(tmp_path)
    assert best is not None
    assert best.candidate == "c0ffee"
    assert not (tmp_path / "best").exists()


def test_best_must_be_there(tmp_path: Path) -> None:
    assert read_best(tmp_path) is None
    begin(tmp_path)
    with RunFolder.open(tmp_path, IDENTITY) as run:
        with pytest.raises(RunError, match=r"candidate 'absent' is not there; .*\(there are c0ffee\)"):
            run.set_best("absent", Status.CERTIFIED)
        shutil.rmtree(run.candidate("c0ffee"))
        with pytest.raises(RunError, match=r"best\.json points at .*c0ffee, which is not there"):
            run.best()


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", '{"candidate": "../x", "status": "certified"}', '{"candidate": "c0ffee", "status": "great"}'],
)
def test_a_damaged_pointer_is_an_error(tmp_path: Path, content: str) -> None:
    begin(tmp_path)
    (tmp_path / "best.json").write_text(content)
    with pytest.raises(RunError, match=r"best\.json is damaged .*remove it and resume"):
        read_best(tmp_path)


@pytest.mark.parametrize("name", ["", "..", "../out", "a/b", ".hidden", "a b", "x" * 101])
def test_names_stay_in_the_folder(tmp_path: Path, name: str) -> None:
    with RunFolder(tmp_path) as run:
        for give in (run.candidate, run.scratch):
            with pytest.raises(RunError, match="cannot name a folder of a run"):
                give(name)


def test_scratch_is_made_and_kept(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as run:
        (run.scratch("probe-1") / "file").write_text("x")
        assert (run.scratch("probe-1") / "file").read_text() == "x"


def test_leftovers_of_a_killed_writer_are_cleared(tmp_path: Path) -> None:
    begin(tmp_path)
    (tmp_path / "candidates" / ".beef.0123.tmp").mkdir()
    (tmp_path / ".best.json.0123.tmp").write_text("{")
    (tmp_path / "scratch" / ".probe.0123.tmp").write_text("x")
    with RunFolder.open(tmp_path, IDENTITY) as run:
        assert run.candidates() == ("c0ffee",)
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_path_that_cannot_be_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file/run cannot be used for a run: Not a directory; choose another"):
        RunFolder(tmp_path / "file" / "run")


def test_a_damaged_journal_lets_go_of_the_lock(tmp_path: Path) -> None:
    begin(tmp_path)
    journal = (tmp_path / "journal.jsonl").read_text()
    (tmp_path / "journal.jsonl").write_text("damage\n")
    with pytest.raises(RunError, match="line 1 is damaged"):
        RunFolder.open(tmp_path, IDENTITY)
    (tmp_path / "journal.jsonl").write_text(journal)
    RunFolder.open(tmp_path, IDENTITY).close()


def test_a_candidate_is_named_by_all_that_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    parts: dict[str, Any] = {"weights": "ab", "recipe": [{"quantize": {"scheme": "int8"}}], "data": "cd", "seed": 0}
    name = candidate_hash(**parts)
    assert name == candidate_hash(**parts)
    assert len(name) == 16
    changes: list[dict[str, Any]] = [{"weights": "ac"}, {"recipe": []}, {"data": "ce"}, {"seed": 1}, {"runtime": "x"}]
    others = {candidate_hash(**parts | change) for change in changes}
    assert len(others | {name}) == len(changes) + 1
    monkeypatch.setattr(identity, "library_versions", lambda: {"torch": "9"})
    assert candidate_hash(**parts) != name


def test_identity_is_plain_json(tmp_path: Path) -> None:
    begin(tmp_path)
    assert (tmp_path / "identity.json").read_text() == dump_json({"schema": 1, "identity": IDENTITY}, indent=2) + "\n"
