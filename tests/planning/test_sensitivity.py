"""Sensitivity: each cell is the model with that part gone, and the grid can be read, kept and used."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import penjing as pj
from penjing.errors import RecipeError
from penjing.planning.sensitivity import Point, Sensitivity, sensitivity
from penjing.structure import couple, cut
from penjing.types import Measure, Part


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.body, self.head = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.inner(x))
        return self.head(x + F.relu(self.body(x)))


@pytest.fixture(scope="module")
def workload() -> pj.Workload:
    torch.manual_seed(0)
    model = Residual()
    with torch.no_grad():
        model.body.weight.mul_(0.01)
    x = torch.randn(200, 6)
    target = model(x).argmax(1).detach()
    data = [(a, b) for a, b in zip(x.split(20), target.split(20), strict=True)]
    return pj.Workload(model, x[:2], evaluation=data, calibration=[torch.randn(40, 6)])


def outputs(workload: pj.Workload, model: nn.Module) -> tuple[Tensor, Tensor]:
    (batch,) = workload.calibration_batches()
    with torch.no_grad():
        return workload.model(*batch.args).double(), model(*batch.args).double()


def test_cells_are_the_model_with_so_many_zeros(workload: pj.Workload) -> None:
    before = copy.deepcopy(workload.model.state_dict())
    found = sensitivity(workload, "element", (0.25, 0.75), by="sqnr")
    assert found.names == ("inner.weight", "body.weight", "head.weight")
    assert found.baseline == 120.0
    for point in found.points:
        model = copy.deepcopy(workload.model)
        weight = model.get_parameter(point.name).detach()
        gone = weight.abs().flatten().argsort()[: round(point.amount * weight.numel())]
        weight.view(-1)[gone] = 0
        y, z = outputs(workload, model)
        expected = 10 * torch.log10(y.square().sum() / (y - z).square().sum())
        assert point.value == pytest.approx(float(expected), rel=1e-6)
    values = {(p.name, p.amount): p.value for p in found.points}
    assert values["body.weight", 0.75] > values["inner.weight", 0.75], "the weak layer bears more"
    assert all(torch.equal(tensor, before[name]) for name, tensor in workload.model.state_dict().items())


def test_channels_gone_are_channels_cut(workload: pj.Workload) -> None:
    found = sensitivity(workload, "channel", (0.5,), by="kl")
    coupling = couple(workload.model, workload.example)
    assert found.names == tuple(group.name for group in coupling.groups)
    (point,) = found.points
    norms = torch.cat([workload.model.get_parameter(n).detach() for n in ("inner.weight", "body.weight")], 1)  # type: ignore[union-attr]
    norms = norms.square().sum(1) + workload.model.body.weight.detach().square().sum(0)  # type: ignore[union-attr, operator]
    norms += workload.model.head.weight.detach().square().sum(0)  # type: ignore[union-attr, operator]
    for layer in ("inner", "body"):
        norms += workload.model.get_parameter(f"{layer}.bias").detach().square()
    smaller = cut(coupling, {point.name: norms.argsort()[:8].sort().values.numpy()}).module
    y, z = outputs(workload, smaller)
    expected = F.kl_div(z.log_softmax(-1), y.log_softmax(-1), log_target=True, reduction="batchmean")
    assert point.value == pytest.approx(float(expected), rel=1e-5)


def test_blocks_left_out_and_the_metric(workload: pj.Workload) -> None:
    found = sensitivity(workload, Part.BLOCK)
    (point,) = found.points
    assert (point.name, point.amount) == ("body", 1.0)
    assert found.by is Measure.METRIC
    assert found.baseline == 1.0
    assert 0.8 <= point.value <= 1.0, "a branch of a hundredth changes few classes"


def test_what_was_measured_is_not_measured_again(
    workload: pj.Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "deep" / "cache.jsonl"
    first = sensitivity(workload, "element", (0.5,), cache=cache)
    with cache.open("a") as file:
        file.write('{"question": "torn')
    evaluated = 0
    evaluate = pj.Workload.evaluate

    def counting(self: pj.Workload, *args: object, **kwargs: object) -> object:
        nonlocal evaluated
        evaluated += 1
        return evaluate(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(pj.Workload, "evaluate", counting)
    assert sensitivity(workload, "element", (0.5,), cache=cache) == first
    assert evaluated == 1, "the whole model alone"
    sensitivity(workload, "element", (0.5,), cache=cache, score="lamp")
    assert evaluated > 2, "another question"


def test_workers_change_nothing(workload: pj.Workload) -> None:
    alone = sensitivity(workload, "element", by="sqnr")
    assert sensitivity(workload, "element", by="sqnr", workers=3) == alone


def test_the_grid_is_read_and_used(workload: pj.Workload, tmp_path: Path) -> None:
    points = (Point("a", 0.3, 0.9), Point("a", 0.6, 0.7), Point("b", 0.3, 0.95), Point("b", 0.6, 0.94))
    grid = Sensitivity(Part.ELEMENT, Measure.METRIC, 0.95, True, points)
    assert grid.amounts(0.02) == {"a": 0.0, "b": 0.6}
    assert grid.amounts(0.06) == {"a": 0.3, "b": 0.6}
    grid.to_csv(tmp_path / "grid.csv")
    rows = (tmp_path / "grid.csv").read_text().splitlines()
    assert rows[0] == "name,amount,metric,loss"
    assert rows[1].startswith("a,0.3,0.9,0.04")
    amounts = sensitivity(workload, "element", by="sqnr").amounts(100.0)
    outcome = pj.apply(workload, pj.Sparsify(amounts, scope="local"))
    for name, amount in amounts.items():
        mask = outcome.masks[name]
        assert int((~mask).sum()) == round(amount * mask.numel())


def test_what_cannot_be_asked(workload: pj.Workload) -> None:
    with pytest.raises(RecipeError, match="kind='layer' is unknown"):
        sensitivity(workload, "layer")
    with pytest.raises(RecipeError, match=r"amounts holds 1.0; each must be a share in \(0, 1\)"):
        sensitivity(workload, amounts=(0.5, 1.0))
    with pytest.raises(RecipeError, match="score='snip' must look at weights alone; use one of l1"):
        sensitivity(workload, score="snip")
    with pytest.raises(RecipeError, match="workers=0 must be at least 1"):
        sensitivity(workload, workers=0)
    bare = pj.Workload(Residual(), torch.randn(2, 6))
    with pytest.raises(RecipeError, match=r"by='metric' needs data; give Workload\(..., evaluation=\)"):
        sensitivity(bare)
    with pytest.raises(RecipeError, match=r"by='sqnr' needs data; give Workload\(..., calibration=\)"):
        sensitivity(bare, by="sqnr")
