"""The search moves only on a clear win, and the winner must hold in a second measurement."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from penjing.errors import RunError, RuntimeUnavailable
from penjing.measuring.paired import Ratio
from penjing.measuring.tune import Compare, tune, with_options
from penjing.runtimes import Artifact, export, load
from penjing.types import Status

CHOICES = {"threads": [1, 2], "graph_optimization": ["all", "basic"]}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    torch.manual_seed(0)
    return export(nn.Linear(8, 4), torch.randn(2, 8), tmp_path_factory.mktemp("tune") / "artifact")


def speed(options: Any, batch: int) -> float:
    """Samples per second of a machine that we made up: two threads pay, and so do large batches, a little."""
    return (1.5 if options["threads"] == 2 else 1.0) * (1.2 if batch == 4 else 1.0)


def made_up(half: float = 0.01) -> Compare:
    def compare(new: Artifact, inputs: Any, old: Artifact, old_inputs: Any) -> Ratio:
        per_call = [speed(a.options, e.batch_size) / e.batch_size for a, e in ((new, inputs), (old, old_inputs))]
        value = per_call[0] / per_call[1]
        return Ratio(value, value * (1 - half), value * (1 + half))

    return compare


def test_the_best_is_found_and_every_trial_is_told(artifact: Artifact) -> None:
    steps: list[int] = []
    found = tune(
        artifact,
        torch.randn(2, 8),
        choices=CHOICES,
        batches=[1, 2, 4],
        compare=made_up(),
        progress=lambda done, total, text: steps.append(done),
    )
    assert (found.options["threads"], found.options["graph_optimization"], found.batch) == (2, "all", 4)
    assert found.ratio is not None
    assert found.ratio.value == pytest.approx(1.8)
    assert [trial.kept for trial in found.trials] == [True, False, False, True]
    assert steps == sorted(steps)
    assert str(found).endswith("batch 4: 1.80x [1.78, 1.82] the original's samples per second")
    assert found.to_data()["trials"][0]["options"]["threads"] == 2


def test_a_win_within_its_interval_moves_nothing(artifact: Artifact) -> None:
    found = tune(artifact, torch.randn(2, 8), choices=CHOICES, compare=made_up(half=0.6))
    assert not found.changed
    assert found.options == artifact.options
    assert {trial.why for trial in found.trials} == {"not clearly faster"}
    assert not any(trial.kept for trial in found.trials)


def test_a_win_that_does_not_repeat_is_given_back(artifact: Artifact) -> None:
    answers = iter([Ratio(1.1, 1.05, 1.15), *[Ratio(1.0, 0.9, 1.1)] * 5])
    found = tune(artifact, torch.randn(2, 8), choices=CHOICES, compare=lambda *_: next(answers))
    assert found.trials[0].kept
    assert not found.changed
    assert found.options == artifact.options


def test_an_impossible_choice_is_a_row(artifact: Artifact) -> None:
    found = tune(artifact, torch.randn(2, 8), choices={"graph_optimization": ["max"]}, compare=made_up())
    assert found.trials[0].ratio is None
    assert "graph_optimization='max' is unknown" in found.trials[0].why


def test_a_choice_that_computes_something_else_is_refused(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    room = importlib.import_module("penjing.measuring.tune")  # the package gives the function of this name
    outputs = iter([[torch.ones(2).numpy()], [torch.full((2,), 1.01).numpy()]])
    monkeypatch.setattr(room, "_outputs", lambda *_: next(outputs))
    found = tune(artifact, torch.randn(2, 8), choices={"threads": [2]}, compare=made_up())
    assert not found.changed
    assert "outputs differ by 0.01" in found.trials[0].why


def test_nothing_to_tune_and_unknown_options(artifact: Artifact) -> None:
    with pytest.raises(RunError, match="give choices= or batches="):
        tune(artifact, torch.randn(2, 8), choices={})
    with pytest.raises(RuntimeUnavailable, match="no option 'layout' to tune; it has threads"):
        tune(artifact, torch.randn(2, 8), choices={"layout": ["nhwc"]})


def test_other_options_share_the_files_and_lose_the_verdict(artifact: Artifact, tmp_path: Path) -> None:
    certified = Artifact(
        artifact.path, artifact.manifest.model_copy(update={"status": Status.CERTIFIED, "verdict": {"outcome": "pass"}})
    )
    other = with_options(certified, {"threads": 2}, tmp_path / "two", extra={"tuned": {"batch": 4}})
    assert other.options == {**artifact.options, "threads": 2}
    assert (other.manifest.status, other.manifest.verdict) == (Status.UNJUDGED, None)
    assert other.manifest.extra["tuned"] == {"batch": 4}
    assert other.manifest.files == artifact.manifest.files
    same = with_options(certified, {}, tmp_path / "same")
    assert same.manifest.status is Status.CERTIFIED
    x = torch.randn(3, 8)
    torch.testing.assert_close(load(other.path)(x), artifact.load()(x))
    assert Artifact.open(artifact.path).options["threads"] == 1


def test_two_files_are_really_compared(artifact: Artifact) -> None:
    found = tune(artifact, torch.randn(2, 8), choices={"graph_optimization": ["basic"]}, seconds=0.02)
    assert len(found.trials) == 1
    assert found.trials[0].ratio is not None
    assert found.trials[0].ratio.low <= found.trials[0].ratio.value <= found.trials[0].ratio.high
