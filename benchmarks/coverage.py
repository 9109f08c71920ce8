"""How far the structural cut reaches: every model of the zoo is cut, proven, trained for a step and deployed.

    python -m benchmarks.coverage                       # what has no result of this version yet; then the page
    python -m benchmarks.coverage --shard 0/2           # every second model
    python -m benchmarks.coverage --only 'timm/*' --again
    python -m benchmarks.coverage --page                # only summarise what there is

Each model has a process of its own with limits on time and memory. Its weights are random and hide nothing: no tensor
is constant, no layer's contribution vanishes. 30 % and 60 % of the units of every group are cut, drawn at random, once
of the exact groups alone and once of all. Rows go to results/coverage/<shard>.jsonl as they come, the newest of a model
counts; the summary goes to results/coverage.json and docs/coverage.md. Torch-Pruning runs beside it, once for a model.
"""

import argparse
import fnmatch
import hashlib
import importlib
import json
import logging
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

import penjing
from benchmarks.common import RESULTS, record
from benchmarks.trials.page import summarise, write_page
from benchmarks.trials.peer import try_peer
from benchmarks.trials.processes import limited
from benchmarks.trials.trial import try_model
from benchmarks.zoo import ZOO, Entry
from benchmarks.zoo.torchvision_import import torchvision
from penjing.runtimes import export

ROWS = RESULTS / "coverage"
CPU_S, PEER_CPU_S, WALL_S = 900, 60, 2400.0
MEMORY_BYTES = 6 * 2**30


def version() -> str:
    """A hash of what decides a result: the structure room and the trial."""
    files = [*Path(penjing.__file__).parent.glob("structure/**/*.py"), *(Path(__file__).parent / "trials").glob("*.py")]
    content = b"".join(path.read_bytes() for path in sorted(files) if path.name != "page.py")
    return hashlib.sha256(content).hexdigest()[:12]


def read_rows() -> dict[str, dict[str, Any]]:
    """The newest row of each model of the zoo, from every shard."""
    lines = (line for path in ROWS.glob("*.jsonl") for line in path.read_text("utf-8").splitlines())
    newest = {row["name"]: row for row in sorted(map(json.loads, lines), key=lambda row: row["when"])}
    return {name: newest[name] for name in ZOO if name in newest}


def run(entry: Entry, known: dict[str, Any], now: str, quick: bool) -> dict[str, Any]:
    """Try one model; the peer's result is kept from an earlier run, for its code does not change."""
    start = time.time()
    row = {
        "name": entry.name,
        "family": entry.family,
        "held_out": entry.held_out,
        "version": now,
        "commit": commit(),
        "quick": quick,
        "when": start,
    }
    trial = partial(try_model, entry, quick=quick)
    told = limited(trial, cpu_s=CPU_S, wall_s=WALL_S, memory_bytes=MEMORY_BYTES)
    kept = {key: known[key] for key in ("peer",) if key in known}
    if not quick and "peer" not in known:
        trial = partial(try_peer, entry)
        kept["peer"] = limited(trial, cpu_s=PEER_CPU_S, wall_s=WALL_S, memory_bytes=MEMORY_BYTES)
    first = known.get("first") or verdict(told)
    return {**row, "wall_s": round(time.time() - start, 1), "first": first, **told, **kept}


def verdict(row: dict[str, Any]) -> str:
    """One word or sentence for a row: passed, not exportable, or what failed first.

    >>> verdict({"export": {"error": "data-dependent"}}), verdict({"died": "no end after 300 s"})
    ('not exportable', 'no end after 300 s')
    >>> verdict({"export": {"error": "data-dependent"}, "parts": {"30": {"passed": True, "what": ""}}})
    'passed'
    """
    if "died" in row:
        return str(row["died"])
    if "error" in row.get("export", {}):
        parts = [(ratio, cut) for ratio, cut in row.get("parts", {}).items() if cut]
        failed = [f"in parts, {ratio} %: {cut['what']}" for ratio, cut in parts if not cut["passed"]]
        return failed[0] if failed else "passed" if parts else "not exportable"
    if not any(row["cuts"].values()):
        return "nothing to cut"
    for name, cut in row["cuts"].items():
        for check in ("cut", "runs", "proof", "zeroed"):
            if check in cut and not cut[check]["passed"]:
                return f"{name} %: {check}: {cut[check].get('what') or cut[check].get('difference', '')}"
    training = row.get("further", {}).get("trains", {"passed": False, "what": "not reached"})
    return "passed" if training["passed"] else f"training: {training.get('what', 'gradients are not finite')}"


def warm_up(entries: Sequence[Entry], quick: bool) -> None:
    """Import here, once, what every trial would import in its own process."""
    for needed in {entry.needs for entry in entries if entry.needs and not entry.missing}:
        torchvision()
        importlib.import_module(needed)
    if not quick:
        with tempfile.TemporaryDirectory() as folder:
            export(torch.nn.Linear(2, 2), torch.zeros(2, 2), f"{folder}/onnx")
        with suppress(ImportError):
            importlib.import_module("torch_pruning")


def chosen(only: Sequence[str], shard: str, held_out: str) -> Iterator[Entry]:
    """The models whose names match the patterns, in their order, every n-th of them."""
    i, n = map(int, shard.split("/"))
    wanted = {"too": (False, True), "never": (False,), "only": (True,)}[held_out]
    names = dict.fromkeys(name for pattern in only for name in fnmatch.filter(ZOO, pattern))
    yield from [ZOO[name] for name in names if ZOO[name].held_out in wanted][i::n]


def commit() -> str:
    """The commit of the code that is measured, where it lies in a repository."""
    command = ["git", "-C", str(Path(penjing.__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def _done(known: dict[str, Any] | None, now: str, args: argparse.Namespace) -> bool:
    """Whether there is a result that the arguments do not ask to replace."""
    if known is None:
        return False
    same = known["version"] == now and known["quick"] <= args.quick
    return args.new or (same and not args.again) or (args.failed and verdict(known) in ("passed", "not exportable"))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", default=["*"], nargs="+", metavar="PATTERN", help="names, as shell patterns, in order"
    )
    parser.add_argument("--shard", default="0/1", metavar="I/N", help="every N-th model, from the I-th on")
    parser.add_argument("--held-out", choices=("too", "never", "only"), default="too", help="models kept unseen")
    parser.add_argument("--again", action="store_true", help="also what has a result of this version of the code")
    parser.add_argument("--failed", action="store_true", help="only what did not pass before")
    parser.add_argument("--new", action="store_true", help="only what has no result at all")
    parser.add_argument("--quick", action="store_true", help="only what finds failures: one cut, no ONNX, no peer")
    parser.add_argument("--page", action="store_true", help="run nothing; summarise what there is")
    args = parser.parse_args(arguments)

    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    now, rows = version(), read_rows()
    path = ROWS / f"{args.shard.replace('/', '-of-')}.jsonl"
    ROWS.mkdir(parents=True, exist_ok=True)
    wanted = [] if args.page else list(chosen(args.only, args.shard, args.held_out))
    todo = [entry for entry in wanted if not entry.missing and not _done(rows.get(entry.name), now, args)]
    print(f"{len(todo)} models to try; {sum(entry.missing for entry in wanted)} need packages that are not installed")
    if todo:
        warm_up(todo, args.quick)
    for entry in todo:
        known = rows.get(entry.name)
        row = run(entry, known or {}, now, args.quick)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{entry.name}: {verdict(row)} ({row.get('cpu_s', 0):.0f} s of {row['wall_s']:.0f})", flush=True)
    rows = {name: row for name, row in read_rows().items() if not row["quick"]}
    if rows and args.only == ["*"]:
        record("coverage", summarise(rows, verdict))
        write_page(rows, verdict)


if __name__ == "__main__":
    main()
