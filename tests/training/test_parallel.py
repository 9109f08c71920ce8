"""Training on two processes is the training on one; what only one rank may do, one does."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from penjing.training import Team
from penjing.workload import Batch

HERE = Path(__file__).parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """What one process holds after its trainings, and what each of two does."""
    alone, together = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("together")
    subprocess.run([sys.executable, HERE / "together.py", alone], check=True)
    subprocess.run([*TORCHRUN, HERE / "together.py", together], check=True)
    paths = [alone / "rank-0.pt", together / "rank-0.pt", together / "rank-1.pt"]
    return together, [torch.load(path, weights_only=True) for path in paths]


@pytest.mark.parametrize("what", ["plain", "sparse", "distilled"])
@pytest.mark.slow
def test_two_processes_find_what_one_finds(found: tuple[Path, list[dict[str, Any]]], what: str) -> None:
    alone, first, second = (each[what] for each in found[1])
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_masks_agree_on_all_ranks(found: tuple[Path, list[dict[str, Any]]]) -> None:
    alone, first, second = found[1]
    assert first["masks"].keys() == alone["masks"].keys()
    assert sum(int(mask.sum()) for mask in first["masks"].values()) == sum(
        int((first["sparse"][name] != 0).sum()) for name in first["masks"]
    )
    for name, mask in first["masks"].items():
        assert torch.equal(mask, second["masks"][name])
        assert torch.equal(mask, alone["masks"][name])
    assert first["log"] == second["log"]


@pytest.mark.slow
def test_batch_norms_and_dropout_leave_all_ranks_alike(found: tuple[Path, list[dict[str, Any]]]) -> None:
    alone, first, second = (each["norms"] for each in found[1])
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert first["drawn"] == alone["drawn"]
    assert first["metrics"].max() > first["metrics"][0]
    assert first["averaged"].max() == 1


@pytest.mark.slow
def test_models_that_differ_are_refused_on_every_rank(found: tuple[Path, list[dict[str, Any]]]) -> None:
    alone, first, second = (each["refused"] for each in found[1])
    assert alone == ""
    assert first == second
    assert "weight has shape (3, 6) on rank 1 and (2, 6) on rank 0; make the model" in first


@pytest.mark.slow
def test_one_rank_writes(found: tuple[Path, list[dict[str, Any]]]) -> None:
    assert [path.name for path in sorted((found[0] / "steps").iterdir())] == [
        *("after-0", "after-1", "after-2", "step-2"),
    ]
    assert len(list((found[0] / "steps" / "step-2").iterdir())) == 1


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_shares_are_the_batch(size: int) -> None:
    x = torch.arange(14.0).view(7, 2)
    batch = Batch((x,), {"mask": x > 3, "scale": 0.5}, torch.arange(7), raw=[x, torch.arange(7)])
    shares = [Team(rank, size).share(batch) for rank in range(size)]
    assert sum(part for _, part in shares) == pytest.approx(1)
    held = [share for share, _ in shares if share is not None]
    assert len(held) == min(size, 7)
    assert sorted(int(i) for share in held for i in share.target) == list(range(7))
    for share in held:
        assert torch.equal(share.args[0], x[share.target])
        assert torch.equal(share.raw[0], share.args[0])
        assert share.kwargs["scale"] == 0.5


def test_a_team_of_one_changes_nothing() -> None:
    team, model = Team.join(), nn.Linear(2, 2)
    assert (team, team.leads) == (Team(), True)
    model(torch.ones(1, 2)).sum().backward()
    before = model.weight.grad
    assert team.average_gradients(torch.optim.SGD(model.parameters()), 3.0, 1.0) == 3.0
    assert model.weight.grad is before
    state = torch.get_rng_state()
    with team.own_randomness(0, 0):
        torch.rand(1)
    assert not torch.equal(torch.get_rng_state(), state)
