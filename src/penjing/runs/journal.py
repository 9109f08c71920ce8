"""The journal of a run: one JSON object a line, appended and flushed to the disk before the run goes on.

    {"seq": 1, "time": 1764000000.25, "event": "baseline", ...}

`seq` is the number of the line, `time` is in seconds since 1970 (UTC), the rest is the event's own. A killed writer can
leave one torn line at the end; that event was never acknowledged, so it is ignored, and overwritten by the next one.
"""

import os
import time
from pathlib import Path
from typing import Any

from penjing.errors import ArtifactError, RunError
from penjing.storage import dump_json, is_disk_full, load_json, sync

NAME = "journal.jsonl"

Event = dict[str, Any]


class Journal:
    """An append-only list of events in a file, for one writer.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "journal.jsonl"
    >>> _ = Journal(path).append("measured", latency_ms=4.5, spread=float("nan"))
    >>> [(event["seq"], event["event"], event["spread"]) for event in Journal(path).events()]
    [(1, 'measured', nan)]
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.exists():
            path.touch()
            sync(path.parent)
        self._events, self._end = _read(path)

    def events(self) -> list[Event]:
        """Give all events, oldest first, as they read from the file: tuples are lists, words are strings."""
        return list(self._events)

    def append(self, event: str, /, **data: Any) -> Event:
        """Write an event; when this returns, it survives a kill and a power cut.

        Values are plain (see `penjing.storage.dump_json`); NaN and infinities are kept. Raises ArtifactError for other
        values and when the disk is full; the journal is then as it was.
        """
        if reserved := data.keys() & {"seq", "time", "event"}:
            raise ArtifactError(f"event {event!r}: {min(reserved)!r} is set by the journal; use another name")
        entry = {"seq": len(self._events) + 1, "time": time.time(), "event": event, **data}
        line = dump_json(entry, what=f"event {event!r}").encode() + b"\n"
        try:
            with self._path.open("r+b") as file:
                file.truncate(self._end)
                file.seek(self._end)
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as problem:
            why = "the disk is full" if is_disk_full(problem) else problem.strerror
            raise ArtifactError(
                f"{self._path}: event {event!r} ({len(line):,} bytes) could not be written: {why}; "
                "mend that and start again: the run resumes after its last event"
            ) from problem
        self._end += len(line)
        self._events.append(load_json(line))
        return self._events[-1]


def read_journal(path: str | Path) -> list[Event]:
    """Read the events of a run, given its folder or its journal, while it runs or after; nothing is locked or changed.

    Raises RunError for a missing journal, and for a damaged one, naming the line.
    """
    path = Path(path)
    return _read(path / NAME if path.is_dir() else path)[0]


def _read(path: Path) -> tuple[list[Event], int]:
    """Give the events and the size in bytes of the lines that hold them."""
    try:
        *lines, _torn = path.read_bytes().split(b"\n")
    except OSError as problem:
        raise RunError(f"{path} cannot be read: {problem.strerror}; give the folder of a run") from problem
    events: list[Event] = []
    for number, line in enumerate(lines, 1):
        try:
            events.append(_event(line, number))
        except ValueError as problem:
            if number == len(lines) and b"\0" in line:  # a power cut can leave zeros where data was to come
                lines.pop()
                break
            raise RunError(
                f"{path}: line {number} is damaged ({problem}); put back a copy of it, or choose another folder"
            ) from problem
    return events, sum(len(line) + 1 for line in lines)


def _event(line: bytes, number: int) -> Event:
    event = load_json(line)
    if not isinstance(event, dict) or not {"seq", "time", "event"} <= event.keys():
        raise ValueError("it is no event")
    if event["seq"] != number:
        raise ValueError(f"its seq is {event['seq']!r}, so lines are missing or doubled")
    return event
