"""deploy: every runtime and format is tried, the fastest certified one ships, and what fails is a row."""

from pathlib import Path

import pytest
import torch
from torch import nn

import penjing as pj
from penjing.errors import RunError, RuntimeUnavailable
from penjing.optimizing import deploy
from penjing.optimizing import deployment as deploy_module
from penjing.runtimes import Artifact
from penjing.types import Decision


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENJING_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def workload() -> pj.Workload:
    """A network that separates two clouds of points, with 600 more for the verdict."""
    torch.manual_seed(0)
    x = torch.randn(900, 32)
    y = (x[:, :4].sum(1) > 0).long()
    model = nn.Sequential(nn.Linear(32, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 2))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[:300]), y[:300]).backward()
        optimizer.step()
    return pj.Workload(
        model.eval(), x[:16], calibration=[(x[:64],)], evaluation=[(x[:300], y[:300])], certificate=[(x[300:], y[300:])]
    )


def test_choices_are_measured_and_the_fastest_certified_one_ships(workload: pj.Workload, tmp_path: Path) -> None:
    found = deploy(workload, pj.Contract(0.05), tmp_path / "d", runtimes=["onnxruntime", "torch"], seconds=0.2)
    names = {choice.name for choice in found.choices}
    assert {"onnxruntime-int8-graph_optimization=all", "torch-fp32", "torch-bf16"} <= names
    faster = [choice.faster for choice in found.choices]
    assert faster == sorted(faster, reverse=True)
    assert min(faster) > 0, "all were measured"
    passed = [choice for choice in found.choices if choice.verdict and choice.verdict.outcome is Decision.PASS]
    shipped = passed[0] if passed else found.reference
    assert Artifact.open(tmp_path / "d" / "best").runtime == shipped.runtime
    assert found.best.load()(torch.randn(3, 32)).shape == (3, 2)
    for choice in found.choices:
        assert choice.name in found.table()
        assert choice.verdict is None or choice.latency.ratio.low > 1, "only what is faster is judged"


def test_what_loses_too_much_is_not_judged(
    workload: pj.Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deploy_module, "value_drop", lambda *arguments: 0.2)
    found = deploy(workload, pj.Contract(0.05), tmp_path / "d", runtimes=["onnxruntime"], seconds=0.1)
    assert found.verdict is None
    assert found.best.manifest.options == found.reference.artifact.manifest.options
    assert all(choice.verdict is None for choice in found.choices)


def test_what_cannot_be_exported_is_a_row_with_its_reason(
    workload: pj.Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = deploy_module.export

    def export(*arguments: object, **options: object) -> Artifact:
        if arguments[3] == "torch":
            raise RuntimeUnavailable("torch lacks an operator")
        return real(*arguments, **options)

    monkeypatch.setattr(deploy_module, "export", export)
    found = deploy(workload, pj.Contract(0.05), tmp_path / "d", runtimes=["torch"], seconds=0.1)
    assert {choice.why for choice in found.choices} == {"RuntimeUnavailable: torch lacks an operator"}
    assert "torch lacks an operator" in found.table()
    assert found.verdict is None


def test_a_folder_that_exists_is_left_alone(workload: pj.Workload, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(RunError, match=r"d exists; give the name of a new folder"):
        deploy(workload, pj.Contract(0.05), tmp_path / "d")


def test_an_unknown_runtime_is_refused_before_any_work(workload: pj.Workload, tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailable, match="abacus"):
        deploy(workload, pj.Contract(0.05), tmp_path / "d", runtimes=["abacus"])
    assert not (tmp_path / "d").exists()


def test_without_data_nothing_is_judged(tmp_path: Path) -> None:
    bare = pj.Workload(nn.Linear(4, 2).eval(), torch.randn(8, 4))
    found = deploy(bare, pj.Contract(0.05), tmp_path / "d", runtimes=["onnxruntime"], seconds=0.1)
    assert found.verdict is None
    assert all(choice.drop is None for choice in found.choices)
