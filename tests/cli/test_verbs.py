"""Every verb on the file that `penjing init` writes, as text and as JSON, and the exit codes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penjing.cli import demo
from penjing.runs import read_best, read_journal
from penjing.runtimes import load
from penjing.types import Status

Penjing = Callable[..., tuple[int, str, str]]
PenjingJson = Callable[..., tuple[int, Any]]


def test_init_writes_a_file_that_is_kept(penjing_says: Penjing, penjing_json: PenjingJson, tmp_path: Path) -> None:
    path = tmp_path / "new" / "mine.py"
    assert penjing_json("init", path) == (0, {"written": str(path)})
    text = path.read_text()
    code, out, err = penjing_says("init", path)
    assert (code, out) == (4, "")
    assert "exists already and is left as it is" in err
    assert path.read_text() == text
    code, out, _ = penjing_says("init", tmp_path / "other.py")
    assert code == 0
    assert f"penjing profile {tmp_path / 'other.py'}" in out.replace("\n", "")


def test_profile(penjing_says: Penjing, penjing_json: PenjingJson, home: Path) -> None:
    code, out, _ = penjing_says("profile", home / "workload.py")
    assert code == 0
    assert "Conv2d" in out
    code, data = penjing_json("profile", home / "workload.py")
    assert code == 0
    assert data["params"] == 80010
    assert f"{data['macs']:,}" in out


def test_parity(penjing_says: Penjing, penjing_json: PenjingJson, home: Path, tmp_path: Path) -> None:
    small, folder = home / "small.py", tmp_path / "int8"
    assert penjing_says("apply", small, home / "int8.yaml", "--out", folder)[0] == 0
    code, data = penjing_json("parity", small, "--model", folder, "--batches", 1)
    assert code == 0
    assert data["passed"]
    assert [row["runs"] for row in data["layers"]] == ["int8", "int8"]
    assert data["metric"]["name"] == "accuracy"
    code, out, _ = penjing_says("parity", small, "--model", folder, "--batches", 0)
    assert code == 0
    assert "agree at each of" in out
    assert "int8 kernels: QGemm (2)" in out
    code, _, err = penjing_says("parity", home / "workload.py", "--model", home / "blunt")
    assert code == 4
    assert "has no quantised operator" in err


def test_couple(penjing_says: Penjing, penjing_json: PenjingJson, home: Path) -> None:
    code, out, _ = penjing_says("couple", home / "workload.py")
    assert code == 0
    assert "3.weight[1]" in out
    code, data = penjing_json("couple", home / "workload.py")
    assert code == 0
    assert [(group["size"], group["exact"], group["prunable"]) for group in data["groups"]] == [
        (64, True, True),
        (128, True, True),
    ]
    (last,) = [m for m in data["groups"][1]["members"] if (m["parameter"], m["dim"]) == ("8.weight", 1)]
    assert len(last["index"]) == 128
    assert last["index"][5] == [20, 21, 22, 23], "a channel owns its 2x2 pixels after flattening"
    assert {"parameter", "dim", "reason", "count", "size"} == data["frozen"][0].keys()
    assert "kept because it is an output of the model: 8.weight[0], 8.bias[0]" in out
    code, out, _ = penjing_says("couple", home / "workload.py", "--picture", home / "coupling.svg")
    assert code == 0
    assert (home / "coupling.svg").read_text("utf-8").startswith("<svg")


def test_couple_lists_the_parts_of_what_is_no_graph(
    penjing_says: Penjing, penjing_json: PenjingJson, tmp_path: Path
) -> None:
    (tmp_path / "workload.py").write_text(
        """
import torch, penjing as pj
from torch import nn

class Chooser(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x):
        y = self.body(x)
        return y[y[:, 0] > 0] if y.sum() > 0 else y

def workload():
    return pj.Workload(Chooser(), torch.ones(2, 4))
"""
    )
    code, out, _ = penjing_says("couple", tmp_path / "workload.py", "--picture", tmp_path / "c.svg")
    assert code == 0
    assert "part body" in out
    assert "2.weight[1]" in out
    assert (tmp_path / "c-body.svg").exists()
    code, data = penjing_json("couple", tmp_path / "workload.py")
    assert code == 0
    assert [group["size"] for group in data["parts"]["body"]["groups"]] == [8]


def test_sensitivity(penjing_says: Penjing, penjing_json: PenjingJson, home: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"grid.{kind}" for kind in ("csv", "svg", "png")]
    outputs = [part for file in files for part in (f"--{file.suffix[1:]}", file)]
    code, out, _ = penjing_says("sensitivity", home / "small.py", "--amount", "0.5", "--amount", "0.9", *outputs)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["metric,", "1.weight", "3.weight"]
    assert files[0].read_text().splitlines()[0] == "name,amount,metric,loss"
    assert files[1].read_text().count("<polyline") == 2
    assert files[2].read_bytes().startswith(b"\x89PNG")
    code, found = penjing_json("sensitivity", home / "small.py", "--amount", "0.5")
    assert code == 0
    assert [point["name"] for point in found["points"]] == ["1.weight", "3.weight"]
    code, _, err = penjing_says("sensitivity", home / "small.py", "--amount", "1.5")
    assert code == 4
    assert "each must be a share in (0, 1)" in err


def test_runtimes(penjing_says: Penjing, penjing_json: PenjingJson) -> None:
    code, data = penjing_json("runtimes")
    assert code == 0
    assert {(row["name"], row["installed"], row["remedy"]) for row in data} >= {("onnxruntime", True, None)}
    assert all(row["version"] and "precision" in row["options"] for row in data if row["installed"])
    code, out, _ = penjing_says("runtimes")
    assert code == 0
    assert "onnxruntime  1." in out


def test_apply(penjing_says: Penjing, penjing_json: PenjingJson, home: Path, tmp_path: Path) -> None:
    code, out, _ = penjing_says("apply", home / "workload.py", home / "blunt.yaml", "--out", tmp_path / "one")
    assert code == 0
    assert out.startswith("prune_channels: ")
    assert (tmp_path / "one" / "surgery.json").exists()
    code, data = penjing_json("apply", home / "workload.py", home / "blunt.yaml", "--out", tmp_path / "two")
    assert code == 0
    assert data["folder"] == str(tmp_path / "two")
    assert data["log"][0]["proof"]


def test_export_and_bench(penjing_says: Penjing, penjing_json: PenjingJson, home: Path, tmp_path: Path) -> None:
    code, data = penjing_json("export", home / "workload.py", "--out", tmp_path / "file", "--threads", "1")
    assert code == 0
    assert data["runtime"] == "onnxruntime"
    assert data["options"]["threads"] == 1
    assert load(data["folder"]).artifact.size_bytes == data["size_bytes"]
    code, out, _ = penjing_says("export", home / "workload.py", "--out", tmp_path / "again")
    assert code == 0
    assert f"{data['size_bytes']}" in out

    against = ("bench", home / "workload.py", home / "spoilt", "--against", home / "original", "--batch", "4")
    code, data = penjing_json(*against)
    assert code == 0
    assert data["batch"] == 4
    assert data["ratio"]["low"] <= data["ratio"]["value"] <= data["ratio"]["high"]
    code, out, _ = penjing_says("bench", home / "workload.py", home / "original")
    assert code == 0
    assert "batch 32, 1 thread" in out


@pytest.mark.parametrize(
    ("candidate", "max_drop", "code", "outcome"),
    [("original", 0.02, 0, "pass"), ("spoilt", 0.02, 1, "fail"), ("original", 0.0001, 3, "undecided")],
)
def test_judge(
    candidate: str,
    max_drop: float,
    code: int,
    outcome: str,
    penjing_says: Penjing,
    penjing_json: PenjingJson,
    home: Path,
) -> None:
    arguments = ("judge", home / "workload.py", home / "original", home / candidate, "--max-drop", max_drop)
    found, data = penjing_json(*arguments)
    assert (found, data["outcome"]) == (code, outcome)
    assert data["n"] == 697
    found, out, _ = penjing_says(*arguments)
    assert found == code
    assert out.lower().startswith(outcome)


def test_optimize_report_and_resume(
    penjing_says: Penjing, penjing_json: PenjingJson, home: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    terms = ("--max-drop", 0.05, "--minimize", "size", "--budget", "1h", "--out", out)
    code, data = penjing_json("optimize", home / "workload.py", *terms)
    assert (code, data["verdict"]["outcome"]) == (0, "pass")
    best = read_best(out)
    assert best is not None
    assert best.status is Status.CERTIFIED

    journal = (out / "journal.jsonl").read_bytes()
    assert penjing_json("resume", out) == (0, data)
    code, text, _ = penjing_says("resume", out)
    assert code == 0
    assert "✓ Pass" in text
    assert str(out / "report.html") in text.replace("\n", "")
    (out / "report.html").unlink()
    assert penjing_json("report", out) == (0, data)
    assert (out / "report.html").exists()
    code, text, _ = penjing_says("report", out)
    assert code == 0
    assert "✓ Pass" in text
    code, priced = penjing_json("report", out, "--price-per-hour", 0.5, "--rate", 1e6)
    assert code == 0
    assert {row["unit"] for row in priced["rows"]} - {row["unit"] for row in data["rows"]} == {"money"}
    assert penjing_says("report", out, "--rate", 5)[0] == 4, "machines need a price"
    assert (out / "journal.jsonl").read_bytes() == journal

    command = (out / "command.json").read_bytes()
    code, _, err = penjing_says(
        "optimize", home / "workload.py", "--max-drop", 0.04, "--minimize", "size", "--out", out
    )
    assert code == 4
    assert "contract.max_drop was 0.05 and is now 0.04" in err
    assert (out / "command.json").read_bytes() == command, "resume still knows the terms of the run"


@pytest.mark.parametrize(("limit", "code", "outcome"), [("--max-size-bytes=10", 1, "fail"), ("", 3, "undecided")])
def test_optimize_under_a_contract_that_is_not_kept(
    limit: str, code: int, outcome: str, penjing_says: Penjing, home: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    drop = "0.02" if limit else "0.0001"
    arguments = [
        "optimize",
        home / "small.py",
        f"--max-drop={drop}",
        "--minimize=size",
        "--out",
        out,
        *filter(None, [limit]),
    ]
    found, text, _ = penjing_says(*arguments)
    assert found == code
    assert json.loads((out / "report.json").read_text())["verdict"]["outcome"] == outcome
    assert outcome.capitalize() in text
    best = read_best(out)
    assert best is not None
    assert best.status is Status.SEARCH_ESTIMATE
    load(best.path / "artifact")


@pytest.mark.parametrize(
    "arguments",
    [
        ("optimize",),
        ("profile", "a.py", "--nope"),
        ("nonsense",),
        ("judge", "a.py", "b"),
        ("bench", "a.py", "b", "--batch", "0"),
        ("optimize", "a.py", "--max-drop", "much"),
    ],
)
def test_usage(arguments: tuple[str, ...], penjing_says: Penjing) -> None:
    code, out, err = penjing_says(*arguments)
    assert (code, out) == (2, "")
    assert "Usage: " in err


FILES = {
    "nothing.txt": "",
    "empty.py": "",
    "wrong.py": "def workload():\n    return 3\n",
    "broken.py": "def workload():\n    return missing\n",
    "syntax.py": "def workload(:\n",
}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("profile", "absent.py"), r"WorkloadError: absent.py is no file; `penjing init absent.py` writes one"),
        (("profile", "nothing.txt"), "nothing.txt is no Python file; its name must end in .py"),
        (("profile", "empty.py"), "empty.py has no function `workload`"),
        (("profile", "wrong.py"), "workload() of wrong.py returned int; return a penjing.Workload"),
        (("profile", "broken.py"), "broken.py, line 2: NameError: name 'missing' is not defined"),
        (("profile", "syntax.py"), "syntax.py, line 1: SyntaxError"),
        (("resume", "."), "RunError: . holds no command.json; resume takes a folder that `penjing optimize` wrote"),
        (("report", "."), "RunError: journal.jsonl cannot be read"),
    ],
)
def test_errors_that_are_explained(
    arguments: tuple[str, ...], says: str, penjing_says: Penjing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    code, out, err = penjing_says(*arguments)
    assert (code, out) == (4, "")
    assert says in err


def test_terms_that_are_refused(penjing_says: Penjing, home: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for option, says in (
        (("--budget", "soon"), "RunError: budget='soon' is no time"),
        (("--runtime", "abacus"), "RuntimeUnavailable: runtime='abacus' is unknown"),
        (("--max-drop", "-1"), "ContractError: Contract: max_drop=-1.0 must be a number of at least 0"),
        (("--minimize", "joy"), "ContractError: Contract: minimize='joy' is unknown"),
    ):
        code, _, err = penjing_says("optimize", home / "small.py", "--out", out, *option)
        assert code == 4
        assert says in err
    assert not (out / "journal.jsonl").exists()


def test_a_damaged_command(penjing_says: Penjing, tmp_path: Path) -> None:
    (tmp_path / "command.json").write_text("{")
    code, _, err = penjing_says("resume", tmp_path)
    assert code == 4
    assert "command.json is damaged" in err


def test_report_before_the_original_is_measured(penjing_says: Penjing, tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").touch()
    code, _, err = penjing_says("report", tmp_path)
    assert code == 4
    assert "the journal holds no baseline yet" in err


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_goes_on(penjing_json: PenjingJson, home: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    # A shell's background jobs, and what they start, ignore the signal: it is listened to again.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = [sys.executable, "-c", f"{heard}; from penjing.cli import main; main()"]
    process = subprocess.Popen(
        [
            *program,
            "optimize",
            str(home / "workload.py"),
            "--max-drop=0.05",
            "--minimize=size",
            "--budget=20s",
            "--out",
            str(out),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        end = time.monotonic() + 60
        while process.poll() is None and not (out / "candidates").exists() and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        printed, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert printed == ""
    assert "interrupted; what was finished is kept" in said
    assert "Traceback" not in said
    read_journal(out)
    code, data = penjing_json("resume", out)
    assert (code, data["verdict"]["outcome"]) == (0, "pass")


@pytest.mark.slow
def test_demo(penjing_says: Penjing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "EPOCHS", 1)
    out = tmp_path / "demo"
    code, printed, _ = penjing_says("demo", "--out", out, "--budget", "5s", "--json")
    data = json.loads(printed)
    outcomes = {0: "pass", 1: "fail", 3: "undecided"}
    assert data["verdict"]["outcome"] == outcomes[code]
    assert data["verdict"]["n"]["value"] == 700
    assert (out / "run" / "report.html").exists()
