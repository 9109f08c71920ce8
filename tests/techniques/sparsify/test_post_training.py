"""Sparsify(method=...): layers are solved in their order, shares follow their errors, and what is wrong is said."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import penjing as pj
from penjing.errors import RecipeError, RunError, ShapeError, WorkloadError
from penjing.techniques.sparsify import post_training
from penjing.techniques.sparsify.allocation import least_error
from penjing.techniques.sparsify.solve import PerLayer, damped, exhaustive
from penjing.types import Solver

SOLVERS = [solver for solver in Solver if solver is not Solver.MAGNITUDE]
PATTERNS = ["unstructured", "2:4", "1:4", "4x1"]


class Net(nn.Module):
    """A convolution, a depthwise and a grouped one, batch norms, and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, stride=2, groups=2, bias=False)
        self.second = nn.BatchNorm2d(8)
        self.hidden = nn.Linear(8, 24)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        x = torch.relu(self.second(self.grouped(x)))
        return self.head(torch.relu(self.hidden(x.mean((2, 3)))))


def images(count: int = 192, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(4, 4, generator=generator)
    return torch.einsum("nchw,cd->ndhw", torch.randn(count, 4, 9, 9, generator=generator), mix)


@pytest.fixture(scope="module")
def workload() -> pj.Workload:
    torch.manual_seed(0)
    model = Net()
    with torch.no_grad():
        for _ in range(8):
            model(images())  # statistics of the batch norms
    return pj.Workload(model.eval(), images(4), calibration=list(images().split(64)))


def error(workload: pj.Workload, model: nn.Module) -> float:
    x = images(64, seed=2)
    with torch.no_grad():
        expected = workload.model(x)
        return float((model(x) - expected).square().sum() / expected.square().sum())


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("method", SOLVERS)
def test_solved_layers_keep_the_pattern_and_the_outputs(workload: pj.Workload, method: str, pattern: str) -> None:
    step = pj.Sparsify(pattern=pattern, method=method)
    if method == Solver.OBS and pattern == "4x1":
        with pytest.raises(RecipeError, match="'obs' weight by weight, not in blocks of 4x1; use method='admm'"):
            pj.apply(workload, step)
        return
    outcome = pj.apply(workload, step)
    by_size = pj.apply(workload, pj.Sparsify(pattern=pattern))
    assert error(workload, outcome.model) < error(workload, by_size.model)
    kept = {name: outcome.model.get_parameter(name) != 0 for name in outcome.masks}
    assert len(kept) == 4
    assert all(torch.equal(outcome.masks[name], mask) for name, mask in kept.items())
    if pattern == "2:4":
        assert all(bool((mask.unflatten(1, (-1, 4)).sum(2) <= 2).all()) for mask in kept.values())
    if pattern == "4x1":
        blocks = [mask.flatten(1).unflatten(0, (-1, 4)).sum(1) for mask in kept.values()]
        assert all(bool(((block == 0) | (block == 4)).all()) for block in blocks)
    total = sum(mask.numel() for mask in kept.values())
    share = 0.25 if pattern == "1:4" else 0.5
    assert sum(int(mask.sum()) for mask in kept.values()) == pytest.approx(share * total, abs=8)


def test_a_single_layer_is_the_problem_that_is_solved() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 5, bias=False)), torch.randn(400, 6) @ torch.randn(6, 6)
    workload = pj.Workload(model, x[:2], calibration=[x])
    pruned = pj.apply(workload, pj.Sparsify(0.5, method="auto")).model[0].weight.double()
    weight, hessian = model[0].weight.double(), (x.T @ x).double()
    gap = weight - pruned
    matrix = damped(hessian / len(x)).matrix
    optimum = weight - exhaustive(weight, matrix, PerLayer(0.5))
    torch.testing.assert_close((gap @ matrix * gap).sum(), (optimum @ matrix * optimum).sum(), rtol=1e-4, atol=1e-6)


def test_the_bias_takes_back_what_the_outputs_are_off_on_average(workload: pj.Workload) -> None:
    model = pj.apply(workload, pj.Sparsify(0.7, method="admm")).model
    x = images()
    with torch.no_grad():
        gaps = (model(x) - workload.model(x)).mean(0).abs() / workload.model(x).std(0)
    assert float(gaps.max()) < 0.02


@pytest.mark.parametrize("scope", ["global", "local", "row", "erk"])
def test_scopes_share_the_amount(workload: pj.Workload, scope: str) -> None:
    outcome = pj.apply(workload, pj.Sparsify(0.6, method="admm", scope=scope))
    kept = {name: mask.float().mean().item() for name, mask in outcome.masks.items()}
    total = sum(mask.numel() for mask in outcome.masks.values())
    assert sum(int(mask.sum()) for mask in outcome.masks.values()) == pytest.approx(0.4 * total, abs=0.03 * total)
    if scope == "local":
        assert all(share == pytest.approx(0.4, abs=0.02) for share in kept.values())
    if scope == "row":
        hidden = outcome.masks["hidden.weight"].sum(1)
        assert bool((hidden == hidden[0]).all())


def test_amounts_by_name_and_numbers(workload: pj.Workload) -> None:
    outcome = pj.apply(workload, pj.Sparsify({"hidden*": 0.75, "*": 100}, method="admm"))
    assert int((~outcome.masks["hidden.weight"]).sum()) == 144
    rest = sum(int((~mask).sum()) for name, mask in outcome.masks.items() if name != "hidden.weight")
    assert rest == pytest.approx(100, abs=6)
    each = pj.apply(workload, pj.Sparsify(2, method="admm", scope="row", parameters=("hidden.weight", "head.weight")))
    assert {int(n) for mask in each.masks.values() for n in (~mask).sum(1)} == {2}


def test_shares_by_error_are_the_best_of_all_on_a_grid() -> None:
    densities, sizes = [0.75, 0.5, 0.25], [100, 300]
    errors = [[0.02, 0.1, 0.4], [0.01, 0.05, 0.1]]
    shares = least_error(errors, densities, sizes, 0.5)
    assert sum(share * size for share, size in zip(shares, sizes, strict=True)) == pytest.approx(200, abs=1)
    curves = [dict(zip([1.0, *densities, 0.0], [0.0, *curve, 1.0], strict=True)) for curve in errors]
    best = min(
        curves[0][one] + curves[1][two] for one in curves[0] for two in curves[1] if 100 * one + 300 * two <= 200
    )
    at = [interpolated(curve, 1 - share) for curve, share in zip(curves, shares, strict=True)]
    assert sum(at) <= best + 1e-2


def interpolated(curve: dict[float, float], density: float) -> float:
    above, below = (choose(d for d in curve if test(d)) for choose, test in
                    ((min, lambda d: d >= density), (max, lambda d: d <= density)))  # fmt: skip
    part = 0.0 if above == below else (density - below) / (above - below)
    return curve[below] + part * (curve[above] - curve[below])


def test_what_is_read_otherwise_goes_by_magnitude_and_is_told() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.twice, self.once = nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.once(self.twice(torch.relu(self.twice(x))))

    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    workload = pj.Workload(Tied(), x[:2], calibration=[x])
    outcome = pj.apply(workload, pj.Sparsify(0.5, method="admm"))
    assert any(row.fell_back and "twice.weight is read by no" in row.what for row in outcome.log)
    assert {name: int(mask.sum()) for name, mask in outcome.masks.items()} == {"once.weight": 16, "twice.weight": 32}
    assert len({row.what for row in outcome.log}) == len(outcome.log) - 1, "each is told once; what zeros bring, twice"

    alone = pj.apply(workload, pj.Sparsify({"twice*": 0.5, "*": 0.25}, method="admm"))
    assert {name: int(mask.sum()) for name, mask in alone.masks.items()} == {"once.weight": 24, "twice.weight": 32}


def test_what_a_pattern_removes_is_told(workload: pj.Workload) -> None:
    outcome = pj.apply(workload, pj.Sparsify(pattern="1:4", method="admm"))
    assert any(row.what.startswith("from 75% of") and "to 75% of" in row.what for row in outcome.log)


def test_an_interrupted_call_goes_on_after_the_last_layer(
    workload: pj.Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = pj.Sparsify(0.6, method="admm")
    whole = pj.apply(workload, step).model
    solve, calls = post_training.Model._solve, []

    def failing(self: Any, layer: Any, *args: Any) -> Any:
        calls.append(layer)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return solve(self, layer, *args)

    with monkeypatch.context() as patched:
        patched.setattr(post_training.Model, "_solve", failing)
        with pytest.raises(KeyboardInterrupt):
            pj.apply(workload, step, resume_dir=tmp_path)
        resumed = pj.apply(workload, step, resume_dir=tmp_path).model
    assert len(calls) == 5  # two layers, the one that failed, and the last two
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, msg=name)


def test_files_of_another_step_are_refused(workload: pj.Workload, tmp_path: Path) -> None:
    pj.apply(workload, pj.Sparsify(0.6, method="admm"), resume_dir=tmp_path)
    (tmp_path / "after-0").rename(tmp_path / "elsewhere")
    with pytest.raises(RunError, match=r"was left by sparsify\(amount=0.6, method=admm\), seed 0, not by"):
        pj.apply(workload, pj.Sparsify(0.5, method="admm"), resume_dir=tmp_path)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda: pj.Sparsify(method="best"), r"method='best' is unknown; use one of 'magnitude', 'auto'"),
        (lambda: pj.Sparsify(10**6, method="auto"), "amount=1000000 is more than the .* weights that are left"),
        (lambda: pj.Sparsify(method="auto", score="snip"), "looks at no score='snip'; leave one of the two out"),
        (lambda: pj.Sparsify(0.1, method="auto", scope="threshold"), "scope='threshold' names none; use 'global'"),
        (lambda: pj.Sparsify(method="auto", pattern="4x1", scope="row"), "among all of a layer, not scope='row'"),
        (lambda: pj.Sparsify(method="auto", pattern="filters"), "not pattern='filters'; use PruneChannels"),
        (lambda: pj.Sparsify(method="auto", pattern="3:5"), "takes groups of 5 inputs, but conv.weight has shape"),
        (lambda: pj.Sparsify(method="auto", pattern="3x1"), "'3x1' does not divide conv.weight, which is 8 x 36"),
        (lambda: [pj.Sparsify(0.1), pj.Sparsify(method="auto")], "are pruned already; prune in one step"),
        (lambda: [pj.Sparsify(method="auto", schedule="cubic"), pj.Finetune()], "not by schedule='cubic'"),
    ],
)
def test_what_does_not_go_together_is_refused(workload: pj.Workload, step: Callable[[], Any], message: str) -> None:
    data = [(images(64), torch.zeros(64, dtype=torch.long))]
    full = pj.Workload(
        workload.model, images(4), calibration=[images(64)], train=data, loss=nn.functional.cross_entropy
    )
    with pytest.raises((RecipeError, ShapeError), match=message):
        pj.apply(full, step())


def test_it_takes_calibration_data(workload: pj.Workload) -> None:
    with pytest.raises(RecipeError, match=r"step 0 \(sparsify\) needs calibration data"):
        pj.apply(workload.model, pj.Sparsify(method="auto"), images(4))


def test_nan_and_zeros_in_the_data_are_errors(workload: pj.Workload) -> None:
    for value, message in ((torch.nan, "NaN or infinity passes the layer of conv.weight"), (0.0, "Hessian is zero")):
        bad = pj.Workload(workload.model, images(4), calibration=[torch.full((16, 4, 9, 9), value)])
        with pytest.raises(WorkloadError, match=message):
            pj.apply(bad, pj.Sparsify(method="admm"))


def test_too_few_rows_and_more_damping_are_told() -> None:
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    workload = pj.Workload(nn.Sequential(nn.Linear(16, 4)), x[:2], calibration=[x])
    outcome = pj.apply(workload, pj.Sparsify(method="admm"))
    told = [row.what for row in outcome.log if row.fell_back]
    assert told == ["0.weight: 5 rows of calibration data leave 16 weights open; damping decides"]


@pytest.mark.parametrize("amount", [0.0, 0])
def test_nothing_is_asked_for(workload: pj.Workload, amount: float) -> None:
    outcome = pj.apply(workload, pj.Sparsify(amount, method="admm", scope="local"))
    assert all(bool(mask.all()) for mask in outcome.masks.values())
    assert error(workload, outcome.model) < 1e-6


def test_all_of_a_layer_may_go(workload: pj.Workload) -> None:
    outcome = pj.apply(workload, pj.Sparsify({"hidden*": 192, "*": 0}, method="admm"))
    assert not outcome.masks["hidden.weight"].any()
    assert bool(torch.isfinite(outcome.model(images(2))).all())


def test_the_original_is_not_changed(workload: pj.Workload) -> None:
    before = copy.deepcopy(workload.model.state_dict())
    pj.apply(workload, pj.Sparsify(method="sparsegpt"))
    assert all(torch.equal(before[name], value) for name, value in workload.model.state_dict().items())
