"""The workload file that `penjing init` writes, trained once, and two artefacts of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import penjing.measuring
from penjing.cli.app import run
from penjing.measuring import Memory
from penjing.optimizing import actions
from penjing.recipe import PruneChannels, Quantize, Recipe

measure = penjing.measuring.measure

Penjing = Callable[..., tuple[int, str, str]]

SMALL = """
import torch
import penjing as pj
from penjing.workload import digits


def workload() -> pj.Workload:
    torch.manual_seed(0)
    images, labels = digits()
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    data = [(images[i : i + 100], labels[i : i + 100]) for i in range(0, 1700, 100)]
    return pj.Workload(model.eval(), images[:4], evaluation=data[:7], certificate=data[7:])
"""


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Cut short what takes long, and keep the ledger of the user out of it."""

    def quick_measure(artifact: Any, example: Any, *, against: Any = None, seconds: float = 0.0) -> Any:
        return measure(artifact, example, against=against, seconds=0.01)

    monkeypatch.setattr(penjing.measuring, "measure", quick_measure)
    monkeypatch.setattr(actions, "measure", quick_measure)
    monkeypatch.setattr(actions, "memory", lambda *_: Memory(10**6, 10**8, 32))
    monkeypatch.setattr(actions, "epoch_seconds", lambda _: 1.0)
    monkeypatch.setattr(actions, "candidates", lambda **_: (Recipe([Quantize()]),))
    monkeypatch.setenv("PENJING_HOME", str(tmp_path / "home"))


@pytest.fixture
def penjing_says(capsys: pytest.CaptureFixture[str]) -> Penjing:
    """Run a command line in this process; give the exit code, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def penjing_json(penjing_says: Penjing) -> Callable[..., tuple[int, Any]]:
    """Run a command line with --json; standard output must be one JSON value and nothing else."""

    def call(*arguments: object) -> tuple[int, Any]:
        code, out, err = penjing_says(*arguments, "--json")
        assert err == "", "with --json nothing else is said"
        return code, json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))

    return call


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder: workload.py as `init` writes it, small.py, the exported original, and a model that was spoilt."""
    folder = tmp_path_factory.mktemp("cli")
    workload = str(folder / "workload.py")
    (folder / "small.py").write_text(SMALL)
    Recipe([PruneChannels(0.9)]).to_yaml(folder / "blunt.yaml")
    Recipe([Quantize()]).to_yaml(folder / "int8.yaml")
    for arguments in (
        ("init", workload),
        ("export", workload, "--out", str(folder / "original")),
        ("apply", workload, str(folder / "blunt.yaml"), "--out", str(folder / "blunt")),
        ("export", workload, "--model", str(folder / "blunt"), "--out", str(folder / "spoilt")),
    ):
        assert run(arguments) == 0
    return folder
