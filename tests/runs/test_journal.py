"""An acknowledged event is never lost; a torn one is never read; damage is never passed over."""

import errno
import io
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penjing.errors import ArtifactError, RunError
from penjing.runs import Journal, read_journal
from penjing.types import Status


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def filled(path: Path, n: int = 3) -> Journal:
    journal = Journal(path)
    for i in range(n):
        journal.append("measured", index=i)
    return journal


def test_events_come_back_in_order(path: Path) -> None:
    journal = filled(path)
    again = Journal(path)
    assert again.events() == journal.events() == read_journal(path) == read_journal(path.parent)
    assert [(e["seq"], e["event"], e["index"]) for e in again.events()] == [(i + 1, "measured", i) for i in range(3)]
    assert again.append("frozen")["seq"] == 4
    assert [e["time"] for e in again.events()] == sorted(e["time"] for e in again.events())


def test_a_line_is_one_strict_json_object(path: Path) -> None:
    def refuse(token: str) -> None:
        raise AssertionError(token)

    Journal(path).append("line\nbreak", text="a\nb\u2028ü", nan=math.nan, low=-math.inf)
    (line,) = path.read_text().splitlines()
    assert json.loads(line, parse_constant=refuse).keys() == {"seq", "time", "event", "text", "nan", "low"}


def test_what_append_gives_is_what_the_file_gives(path: Path) -> None:
    journal = Journal(path)
    event = journal.append("candidate", widths=(3, np.int64(4)), status=Status.CERTIFIED, drop=math.nan)
    assert repr(event) == repr(Journal(path).events()[0])
    assert type(event["status"]) is str
    assert event["widths"] == [3, 4]
    assert math.isnan(event["drop"])


def test_an_event_is_on_the_disk_before_it_is_acknowledged(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = filled(path)
    flushed: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(path.read_bytes()))
    journal.append("next")
    assert flushed == [path.read_bytes()]
    assert b'"next"' in flushed[0]


def test_the_list_of_events_is_a_copy(path: Path) -> None:
    journal = filled(path)
    journal.events().clear()
    assert len(journal.events()) == 3


def test_a_tail_torn_anywhere_loses_only_itself(path: Path) -> None:
    whole = filled(path).events()
    content = path.read_bytes()
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        kept = content[:cut].count(b"\n")
        assert read_journal(path) == whole[:kept]
        journal = Journal(path)
        assert path.read_bytes() == content[:cut]  # reading changes nothing
        journal.append("next")
        assert [e["event"] for e in Journal(path).events()] == ["measured"] * kept + ["next"]


@pytest.mark.parametrize("tail", [b"\0" * 500, b'{"seq": 4, \0\0\0\0\0}\n', b"{"])
def test_a_tail_that_a_power_cut_left_is_torn(path: Path, tail: bytes) -> None:
    filled(path)
    with path.open("ab") as file:
        file.write(tail)
    journal = Journal(path)
    assert len(journal.events()) == 3
    journal.append("next")
    assert path.read_bytes().count(b"\n") == 4
    assert path.read_bytes().endswith(b"}\n")  # nothing of the tail is left
    assert [e["event"] for e in Journal(path).events()] == ["measured"] * 3 + ["next"]


@pytest.mark.parametrize(
    ("line", "damage"),
    [
        (1, "garbage"),
        (2, ""),
        (2, '{"seq": 2}'),
        (2, '{"seq": 3, "time": 0, "event": "x"}'),
        (3, "{"),
        (2, "[1]"),
        (2, "\0\0"),
    ],
)
def test_damage_names_its_line(path: Path, line: int, damage: str) -> None:
    filled(path)
    lines = path.read_text().splitlines()
    lines[line - 1] = damage
    path.write_text("\n".join(lines) + "\n")
    before = path.read_bytes()
    for read in (Journal, read_journal):
        with pytest.raises(RunError, match=rf"journal\.jsonl: line {line} is damaged .*put back a copy"):
            read(path)
    assert path.read_bytes() == before


def test_a_missing_line_is_damage(path: Path) -> None:
    filled(path)
    first, _, third = path.read_text().splitlines()
    path.write_text(f"{first}\n{third}\n")
    with pytest.raises(RunError, match=r"line 2 is damaged .*its seq is 3"):
        read_journal(path)


def test_a_missing_journal_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"absent cannot be read: No such file.*give the folder of a run"):
        read_journal(tmp_path / "absent")
    with pytest.raises(RunError, match=r"journal\.jsonl cannot be read"):
        read_journal(tmp_path)


@pytest.mark.parametrize("value", [{1, 2}, object(), {1: 2}])
def test_a_value_that_json_cannot_hold_changes_nothing(path: Path, value: Any) -> None:
    journal = filled(path)
    before = path.read_bytes()
    with pytest.raises(ArtifactError, match=r"event 'bad'\.value"):
        journal.append("bad", value=value)
    with pytest.raises(ArtifactError, match="event 'bad': 'time' is set by the journal"):
        journal.append("bad", time=3)
    assert path.read_bytes() == before
    assert journal.append("good")["seq"] == 4


def test_a_full_disk_leaves_the_journal_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = filled(path)
    open_file = Path.open

    class Full:
        """A file whose disk fills in the middle of a write."""

        def __init__(self, file: io.BufferedRandom) -> None:
            self.file = file

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *problem: object) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def write(self, data: bytes) -> int:
            self.file.write(data[:20])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda self, mode: Full(open_file(self, mode)))  # type: ignore[arg-type]
        with pytest.raises(ArtifactError, match=r"event 'lost' .* could not be written: the disk is full.*resumes"):
            journal.append("lost")
    assert len(read_journal(path)) == 3
    assert journal.append("next")["seq"] == 4
    assert [e["event"] for e in Journal(path).events()] == ["measured"] * 3 + ["next"]
