"""The loop over the line, end to end on a tiny search, and what it refuses."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import nn

from penjing.errors import ContractError, RunError, RuntimeUnavailable
from penjing.optimizing import Run, actions, optimize
from penjing.optimizing.run import seconds, told_power
from penjing.planning import Finish, Freeze, Judge, Probe, Recover, plan
from penjing.recipe import Contract, MaxDrop, Recipe
from penjing.reporting import read_report
from penjing.runs import Journal, RunFolder, read_best, read_journal
from penjing.runtimes import RUNTIMES, load
from penjing.types import Decision, Split, Status
from penjing.verdict import Ledger
from penjing.workload import Workload, metrics


def kinds(folder: Path) -> list[str]:
    return [event["event"] for event in read_journal(folder) if event["event"] != "begin"]


def test_every_action_ends_in_one_event(finished: Run) -> None:
    line = ["baseline", "lattice", "probe", "candidate", "candidate", "freeze"]
    assert kinds(finished.folder)[:6] == line
    judged = kinds(finished.folder)[6:-1]
    assert judged == ["verdict"] * len(judged)
    assert judged
    assert kinds(finished.folder)[-1] == "finish"


def test_a_pass_is_certified_and_reported(finished: Run) -> None:
    assert finished.verdict is not None
    assert finished.verdict.outcome is Decision.PASS
    best = read_best(finished.folder)
    assert best is not None
    assert best.status is Status.CERTIFIED
    assert best.path / "artifact" == finished.best.path
    smallest = min(finished.front, key=lambda event: event["size_bytes"])
    assert best.candidate == smallest["hash"]
    data = read_report(finished.folder)
    assert data.verdict.outcome is Decision.PASS
    assert data.verdict.sentence == finished.verdict.sentence()
    after_the_outcome = data.verdict.sentence.removeprefix("Pass: a")
    assert after_the_outcome in (finished.folder / "report.md").read_text()
    assert "<html" in finished.report_path.read_text()
    assert str(finished.best.path) in finished.summary()


def test_the_best_model_can_be_deployed(finished: Run, weights: Path) -> None:
    workload = tiny.workload(weights)
    (samples,) = workload.evaluate(load(finished.folder / "best" / "artifact"))
    chosen = next(event for event in finished.front if event["hash"] == read_best(finished.folder).candidate)  # type: ignore[union-attr]
    assert samples.value == chosen["value"]


def test_the_artefact_that_ships_says_how_it_came_about(finished: Run) -> None:
    assert finished.verdict is not None
    manifest = finished.best.manifest
    chosen = next(event for event in finished.front if event["size_bytes"] == finished.best.size_bytes)
    assert manifest.recipe == chosen["recipe"]
    assert manifest.status is Status.CERTIFIED
    assert manifest.verdict is not None
    assert manifest.verdict["sentence"] == finished.verdict.sentence()
    proofs = [row["proof"] for row in chosen["log"] if row["proof"]]
    assert manifest.surgery_proof == ({"cuts": proofs} if proofs else None)


def test_nothing_that_can_be_thrown_away_is_left(finished: Run) -> None:
    assert list((finished.folder / "scratch").iterdir()) == []


def test_the_plan_is_a_function_of_the_journal(finished: Run) -> None:
    events = [event for event in read_journal(finished.folder) if event["event"] != "begin"]
    for i, event in enumerate(events[:-1]):
        action = plan(events[:i])
        assert type(action).__name__.lower() == {"candidate": "recover", "verdict": "judge"}.get(
            event["event"], event["event"]
        )
        if isinstance(action, Probe | Recover):
            assert action.index == event["index"]
        if isinstance(action, Freeze):
            assert list(action.hashes) == event["hashes"]
        if isinstance(action, Judge):
            assert action.hash == event["hash"]
    assert plan(events[:-1]) == Finish(events[-1]["chosen"])


def test_the_certificate_is_not_looked_at_before_the_list_is_frozen(
    stopped: Callable[[str], Path], weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stopped("lattice")
    looks: list[tuple[str, list[str]]] = []
    evaluate, look = Workload.evaluate, Ledger.look

    def seen(self: Workload, predict: Any, split: Any = Split.SEARCH, *rest: Any) -> Any:
        if split == Split.CERTIFICATE:
            looks.append(("evaluate", kinds(folder)))
        return evaluate(self, predict, split, *rest)

    def written(self: Ledger, *rest: Any) -> int:
        looks.append(("ledger", kinds(folder)))
        return look(self, *rest)

    monkeypatch.setattr(Workload, "evaluate", seen)
    monkeypatch.setattr(Ledger, "look", written)
    monkeypatch.setattr(actions, "candidates", lambda **_: tiny.RECIPES[:1])
    tiny.run(weights, folder)
    assert [what for what, _ in looks] == ["ledger", "evaluate", "evaluate"], "the look is written before a score"
    assert all("freeze" in before for _, before in looks)


def test_best_can_be_loaded_at_each_moment(
    stopped: Callable[[str], Path], weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, append = stopped("lattice"), Journal.append
    statuses = []

    def checked(self: Journal, event: str, /, **data: Any) -> Any:
        best = read_best(folder)
        assert best is not None, f"no best model before {event!r}"
        outputs = load(best.path / "artifact")(torch.zeros(2, 1, 8, 8))
        assert outputs.shape == (2, 10)
        if event == "candidate":
            assert best.candidate == data["hash"], "the pointer is set before the event"
        statuses.append((event, best.status))
        return append(self, event, **data)

    monkeypatch.setattr(Journal, "append", checked)
    monkeypatch.setattr(actions, "candidates", lambda **_: tiny.RECIPES[:1])
    tiny.run(weights, folder)
    assert [event for event, _ in statuses] == ["lattice", "candidate", "freeze", "verdict", "finish"]
    assert [status for _, status in statuses] == [Status.SEARCH_ESTIMATE] * 4 + [Status.CERTIFIED]


def test_the_original_is_the_best_before_its_event(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Journal.append

    def killed(self: Journal, event: str, /, **data: Any) -> Any:
        if event == "baseline":
            raise KeyboardInterrupt
        return append(self, event, **data)

    monkeypatch.setattr(Journal, "append", killed)
    with pytest.raises(KeyboardInterrupt):
        tiny.run(weights, tmp_path / "run")
    best = read_best(tmp_path / "run")
    assert best is not None
    assert best.candidate == "baseline"
    assert kinds(tmp_path / "run") == []


def test_a_finished_run_does_nothing_again(
    finished: Run, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished.folder, folder, symlinks=True)
    before = (folder / "journal.jsonl").read_bytes()
    (folder / "report.html").unlink()
    monkeypatch.setattr(actions, "apply", None)
    again = tiny.run(weights, folder)
    assert (folder / "journal.jsonl").read_bytes() == before
    assert again.verdict == finished.verdict
    assert again.report_path.exists()


def test_a_contract_that_cannot_be_met_ships_the_best_effort(
    stopped: Callable[[str], Path], weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "candidates", lambda **_: tiny.RECIPES[:1])
    contract = Contract(0.1, max_size_bytes=10, minimize="size")
    run = optimize(tiny.workload(weights), contract, budget="1h", out=tmp_path / "run")
    assert run.verdict is not None
    assert run.verdict.outcome is Decision.FAIL
    best = read_best(run.folder)
    assert best is not None
    assert best.status is Status.SEARCH_ESTIMATE
    assert best.candidate != "baseline"
    assert run.best.load()(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    report = read_report(run.folder)
    assert report.verdict.outcome is Decision.FAIL
    assert report.verdict.limits[0].held is False


def test_where_no_recipe_can_be_applied_the_original_ships(
    stopped: Callable[[str], Path], weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stopped("lattice")
    monkeypatch.setattr(actions, "candidates", lambda **_: (Recipe([]),))

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeUnavailable("the runtime lacks an operator")

    monkeypatch.setattr(type(RUNTIMES["onnxruntime"]), "export", broken)
    run = tiny.run(weights, folder)
    assert kinds(folder)[2:] == ["candidate-failed", "freeze", "finish"]
    assert run.verdict is None
    assert run.best.path == folder / "candidates" / "baseline" / "artifact"
    assert run.summary().startswith("No candidate is better than the original")
    report = read_report(folder)
    assert report.verdict.outcome is None
    assert any("lacks an operator" in row.what and row.fell_back for row in report.steps)


@pytest.mark.parametrize("budget", ["10 minutes", "", "-3s", "0", "1d", "nan"])
def test_a_budget_that_is_no_time(budget: str, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"budget=.* is no time; write '90s'"):
        optimize(tiny.workload(weights), tiny.CONTRACT, budget=budget, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_budgets() -> None:
    assert [seconds(text) for text in ("90s", "30m", "2h", "12", 12.5)] == [90, 1800, 7200, 12, 12.5]


def test_what_is_refused_before_any_work(weights: Path, tmp_path: Path) -> None:
    workload, out = tiny.workload(weights), tmp_path / "run"
    with pytest.raises(RunError, match=r"cluster='ray': .*leave it out"):
        optimize(workload, tiny.CONTRACT, out=out, cluster="ray")
    with pytest.raises(RuntimeUnavailable, match=r"runtime='abacus' is unknown; use one of .*'onnxruntime'"):
        optimize(workload, tiny.CONTRACT, out=out, runtime="abacus")
    with pytest.raises(ContractError, match="limits 'f1'"):
        optimize(workload, Contract(limits=(MaxDrop("f1", 0.1),)), out=out)
    assert not out.exists()


def test_a_folder_of_another_run(finished: Run, weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished.folder, folder, symlinks=True)
    before = (folder / "journal.jsonl").read_bytes()
    with pytest.raises(RunError, match=r"another run.*contract\.max_drop was 0\.1 and is now 0\.2"):
        optimize(tiny.workload(weights), Contract(0.2, minimize="size"), out=folder)
    other = tiny.workload(weights)
    with torch.no_grad():
        other.model[1].weight[0, 0] += 1  # type: ignore[index, operator, union-attr]
    with pytest.raises(RunError, match=r"What differs: model was '\w+' and is now '\w+'$"):
        optimize(other, tiny.CONTRACT, out=folder)
    with pytest.raises(RunError, match="certificate data was"):
        optimize(tiny.workload(weights, certificate=600), tiny.CONTRACT, out=folder)
    with pytest.raises(RunError, match=r"seed was 0 and is now 1"):
        optimize(tiny.workload(weights), tiny.CONTRACT, out=folder, seed=1)
    with pytest.raises(RunError, match=r"holds a run .* and resume=False; resume it, choose another folder"):
        optimize(tiny.workload(weights), tiny.CONTRACT, out=folder, resume=False)
    assert (folder / "journal.jsonl").read_bytes() == before


def test_a_folder_in_use(finished: Run, weights: Path, tmp_path: Path) -> None:
    with RunFolder(finished.folder), pytest.raises(RunError, match="in use by process"):
        tiny.run(weights, finished.folder)


def test_drops_in_the_terms_of_the_contract(finished: Run, weights: Path) -> None:
    workload = tiny.workload(weights)
    with RunFolder(finished.folder) as folder:
        base = next(event for event in folder.journal.events() if event["event"] == "baseline")["value"]
        for contract, expected in ((Contract(0.1), 0.25), (Contract(0.1, relative=True), 0.25 / base)):
            line = actions.Line(workload, contract, "onnxruntime", folder, 1.0, 0)
            assert actions.drop_of(line, base - 0.25) == pytest.approx(expected)
        error = Workload(nn.Identity(), torch.zeros(1, 1), metric=metrics.mean_absolute_error())
        line = actions.Line(error, Contract(0.1), "onnxruntime", folder, 1.0, 0)
        assert actions.drop_of(line, base + 0.25) == pytest.approx(0.25), "where lower is better, more is a loss"


def test_an_error_of_which_less_is_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(900, 6)
    target = inputs.sum(1, keepdim=True) + 1
    data = [(inputs[i : i + 50], target[i : i + 50]) for i in range(0, 900, 50)]
    model = nn.Sequential(nn.Linear(6, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 1)).eval()
    error = metrics.mean_absolute_error()
    workload = Workload(model, inputs[:4], evaluation=data[:3], certificate=data[3:], metric=error, name="sum")
    contract = Contract(0.3, relative=True, minimize="size")
    assert told_power(workload, contract).startswith("The certificate has 750 samples; what they certify")
    monkeypatch.setattr(actions, "candidates", lambda **_: tiny.RECIPES[:1])
    run = optimize(workload, contract, budget="1h", out=tmp_path / "run")
    assert run.verdict is not None
    assert abs(run.verdict.drop) < 0.01
    report = read_report(run.folder)
    assert report.power.smallest_drop.reason == "it depends on the scores of this metric"
    assert report.front.floor == pytest.approx(1.3 * run.front[0]["value"])


def test_memory_is_compared_with_memory(
    stopped: Callable[[str], Path], weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunFolder(stopped("probe")) as folder:
        line = actions.Line(tiny.workload(weights), Contract(0.1, minimize="memory"), "onnxruntime", folder, 1e9, 0)
        actions.ACTIONS[Probe](line, Probe(1))
        event = folder.journal.events()[-1]
    assert event["memory_bytes"] == 3 * event["size_bytes"], "as it is measured for the original"


def test_the_power_of_a_relative_contract(weights: Path) -> None:
    workload = tiny.workload(weights)
    assert "A contract of 10.00 points" in told_power(workload, Contract(0.1))
    assert "A contract of" not in told_power(workload, Contract(0.1, relative=True))
