"""The k-sparse problem of a layer: methods against exhaustive search, exact algebra against plain algebra."""

from itertools import combinations

import pytest
import torch
from torch import Tensor

from penjing.errors import RecipeError, ShapeError, WorkloadError
from penjing.techniques.sparsify.solve import (
    METHODS,
    Blocks,
    Budget,
    NofM,
    PerLayer,
    PerRow,
    damped,
    exhaustive,
    losses,
    lower_bound,
    methods,
    relative_error,
)
from penjing.techniques.sparsify.solve import admm as alternating
from penjing.techniques.sparsify.solve.admm import admm
from penjing.techniques.sparsify.solve.bound import splitting
from penjing.techniques.sparsify.solve.budgets import Competing
from penjing.techniques.sparsify.solve.exhaustive import losses_of_supports
from penjing.techniques.sparsify.solve.obs import removed_one_by_one
from penjing.techniques.sparsify.solve.refit import refit, refit_slowly
from penjing.techniques.sparsify.solve.swap import swapped

COMPETING: list[Competing] = [PerLayer(0.3), PerRow(0.4), NofM(2, 4), NofM(4, 8), NofM(1, 4)]
BUDGETS: list[Budget] = [*COMPETING, Blocks(2, 1, 0.25), Blocks(1, 4, 0.5)]
SEEDS = range(4)


def problem(seed: int, outputs: int = 6, inputs: int = 8, samples: int = 24) -> tuple[Tensor, Tensor]:
    """A weight and the Hessian of inputs that share factors, so that the supports matter."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(inputs, inputs, generator=generator, dtype=torch.float64)
    x = torch.randn(samples, inputs, generator=generator, dtype=torch.float64) @ mixed
    return torch.randn(outputs, inputs, generator=generator, dtype=torch.float64), damped(x.T @ x, 1e-3).matrix


def lost(weight: Tensor, pruned: Tensor, hessian: Tensor) -> float:
    return float(losses(weight, pruned, hessian).sum())


def allowed(pruned: Tensor, budget: Budget) -> bool:
    kept = pruned != 0
    return bool((budget.keep(kept.double()) >= kept).all())


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_keeps_every_budget(name: str, budget: Budget) -> None:
    weight, hessian = problem(0)
    if name == "obs" and isinstance(budget, Blocks):
        with pytest.raises(RecipeError, match=r"obs: removes single weights, not blocks of (2x1|1x4)"):
            METHODS[name](weight, hessian, budget)
        return
    pruned = METHODS[name](weight, hessian, budget)
    assert allowed(pruned, budget)
    assert lost(weight, pruned, hessian) < lost(weight, torch.zeros_like(weight), hessian)


@pytest.mark.parametrize("budget", COMPETING, ids=str)
def test_the_best_is_the_optimum_or_near_and_above_the_bound(
    budget: Competing, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, optima = 0.0, 0.0
    for seed in SEEDS:
        weight, hessian = problem(seed)
        optimum = lost(weight, exhaustive(weight, hessian, budget), hessian)
        for name, method in METHODS.items():
            assert lost(weight, method(weight, hessian, budget), hessian) >= optimum * (1 - 1e-9), name
        bound = lower_bound(weight, hessian, budget)
        assert 0 < bound <= optimum * (1 + 1e-9)
        assert lost(weight, METHODS["auto"](weight, hessian, budget), hessian) == pytest.approx(optimum, rel=1e-9)
        with monkeypatch.context() as patched:
            patched.setattr(methods, "FEW", 0)
            found += lost(weight, METHODS["auto"](weight, hessian, budget), hessian)
        optima += optimum
    assert found <= 1.05 * optima


def test_exhaustive_search_is_what_a_loop_over_all_supports_finds() -> None:
    weight, hessian = problem(1, outputs=2, inputs=5)
    curves = [[lost_of_best(row, hessian, k) for k in range(6)] for row in weight]
    for k, budget in ((2, PerRow(0.4)), (4, PerLayer(0.4))):
        found = lost(weight, exhaustive(weight, hessian, budget), hessian)
        expected = (
            curves[0][k] + curves[1][k]
            if isinstance(budget, PerRow)
            else min(curves[0][i] + curves[1][k - i] for i in range(k + 1))
        )
        assert found == pytest.approx(expected, rel=1e-9)


def lost_of_best(row: Tensor, hessian: Tensor, count: int) -> float:
    best = float(row @ hessian @ row)
    for support in map(list, combinations(range(len(row)), count)):
        kept = torch.zeros_like(row)
        if support:
            kept[support] = torch.linalg.solve(hessian[support][:, support], (hessian @ row)[support])
        best = min(best, float((row - kept) @ hessian @ (row - kept)))
    return best


def test_least_squares_on_a_support_is_that_of_torch() -> None:
    weight, hessian = problem(2)
    mask = torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    mask[0] = False
    fitted, root = refit(weight, hessian, mask), torch.linalg.cholesky(hessian).T
    for row, kept, new in zip(weight, mask, fitted, strict=True):
        expected = torch.zeros_like(row)
        expected[kept] = torch.linalg.lstsq(root[:, kept], (root @ row)[:, None]).solution[:, 0]
        torch.testing.assert_close(new, expected)
    slow = refit_slowly(weight, hessian, torch.zeros_like(weight), mask, 60)
    torch.testing.assert_close(slow, fitted, rtol=1e-6, atol=1e-8)


def test_a_cost_of_removal_is_what_the_refit_loses() -> None:
    weight, hessian = problem(3)
    removals = removed_one_by_one(weight, hessian, 5)
    mask = torch.ones_like(weight, dtype=torch.bool)
    total = torch.zeros(len(weight), dtype=torch.float64)
    for step in range(5):
        each = mask[:, None] & ~torch.eye(weight.shape[1], dtype=torch.bool)
        costs = torch.stack([losses(weight, refit(weight, hessian, each[:, j]), hessian) for j in range(8)], 1)
        costs = costs.masked_fill(~mask, torch.inf)
        assert torch.equal(costs.argmin(1), removals.order[:, step])  # greedy: the cheapest goes
        mask.scatter_(1, removals.order[:, step, None], False)
        total += removals.costs[:, step]
        torch.testing.assert_close(total, costs.min(1).values)


def test_no_exchange_betters_the_support_that_exchanges_end_with() -> None:
    weight, hessian = problem(0)
    start = PerRow(0.5).keep(-weight.square())  # the worst of supports
    mask = swapped(weight, hessian, start)
    assert torch.equal(mask.sum(1), start.sum(1))
    end = losses(weight, refit(weight, hessian, mask), hessian)
    assert bool((end < losses(weight, refit(weight, hessian, start), hessian)).all())
    for row, kept, least in zip(weight, mask, end, strict=True):
        for out in kept.nonzero()[:, 0]:
            for into in (~kept).nonzero()[:, 0]:
                other = kept.clone()
                other[out], other[into] = False, True
                assert lost(row[None], refit(row[None], hessian, other[None]), hessian) >= least * (1 - 1e-5)


def test_exchanges_stay_within_groups() -> None:
    weight, hessian = problem(1)
    start = NofM(2, 4).keep(-weight.square())
    mask = swapped(weight, hessian, start, group=4)
    assert not torch.equal(mask, start)
    assert bool((mask.view(-1, 4).sum(1) == 2).all())


@pytest.mark.parametrize("seed", SEEDS)
def test_a_splitting_leaves_a_positive_semidefinite_rest(seed: int) -> None:
    _, hessian = problem(seed, inputs=12)
    diagonal = splitting(hessian)
    eigenvalues = torch.linalg.eigvalsh(hessian - diagonal.diag())
    assert bool((diagonal > 0).all())
    assert float(eigenvalues[0]) >= -1e-9 * float(eigenvalues[-1])
    assert float(diagonal.sum()) > 12 * float(torch.linalg.eigvalsh(hessian)[0])  # better than the least eigenvalue


def test_with_equal_inputs_that_share_nothing_every_method_is_the_projection() -> None:
    weight, _ = problem(0)
    expected = METHODS["magnitude"](weight, torch.eye(8), PerLayer(0.3))
    for name, method in METHODS.items():
        torch.testing.assert_close(method(weight, torch.eye(8).double(), PerLayer(0.3)), expected, msg=name)
    bound = lower_bound(weight, torch.eye(8).double(), PerLayer(0.3))
    assert bound == pytest.approx(float((weight - expected).square().sum()), rel=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_all_and_nothing(name: str) -> None:
    weight, hessian = problem(0)
    for budget in (PerLayer, PerRow):
        torch.testing.assert_close(METHODS[name](weight, hessian, budget(1.0)), weight)
        assert not METHODS[name](weight, hessian, budget(0.0)).any()


def test_large_layers_take_their_outputs_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, hessian = problem(2)
    whole = admm(weight, hessian, PerRow(0.5), (0.5, 1.0), 4)
    monkeypatch.setattr(alternating, "_ROWS", 16)
    torch.testing.assert_close(admm(weight, hessian, PerRow(0.5), (0.5, 1.0), 4), whole)
    monkeypatch.setattr(methods, "LARGE", 0.0)
    large = METHODS["admm"](weight, hessian, PerRow(0.5))
    exact = refit(weight, hessian, large != 0)
    assert lost(weight, large, hessian) <= 1.01 * lost(weight, exact, hessian)


def test_losses_of_supports_count_the_empty_one() -> None:
    weight, hessian = problem(0, outputs=2, inputs=3)
    found = losses_of_supports(weight, hessian, torch.tensor([[False] * 3, [True] * 3]))
    torch.testing.assert_close(found[:, 0], losses(weight, torch.zeros_like(weight), hessian))
    torch.testing.assert_close(found[:, 1], torch.zeros(2, dtype=torch.float64), atol=1e-9, rtol=0)


def test_damping_says_what_it_added_and_whether_it_took_more() -> None:
    x = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    found = damped((x.T @ x).double(), 0.01)
    assert not found.stronger
    assert found.added == pytest.approx(0.01 * float((x.T @ x).diagonal().mean()))
    torch.testing.assert_close(found.matrix - found.added * torch.eye(5).double(), (x.T @ x).double())
    singular = damped(torch.ones(3, 3), 0.0)
    assert singular.stronger
    assert singular.share > 0


@pytest.mark.parametrize(
    ("hessian", "kind", "message"),
    [
        (torch.ones(2, 3), ShapeError, r"has shape \(2, 3\); give X\^T X"),
        (torch.full((2, 2), torch.nan), WorkloadError, "holds NaN or infinity; look at the calibration data"),
        (torch.zeros(2, 2), WorkloadError, "is zero: the layer sees nothing but zeros"),
        (torch.tensor([[1.0, 9.0], [9.0, 1.0]]), WorkloadError, "not positive definite with 1 of its mean diagonal"),
    ],
)
def test_what_is_no_sum_of_squares_is_refused(hessian: Tensor, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        damped(hessian)


def test_budgets_refuse_what_they_cannot_count() -> None:
    scores = torch.ones(3, 6)
    with pytest.raises(RecipeError, match=r"density=1\.5 must lie in \[0, 1\]"):
        PerRow(1.5)
    with pytest.raises(ShapeError, match="2:4 takes groups of 4 inputs, and there are 6"):
        NofM(2, 4).keep(scores)
    with pytest.raises(ShapeError, match="blocks of 2x1 do not divide a weight of 3 x 6"):
        Blocks(2, 1, 0.5).keep(scores)
    with pytest.raises(ShapeError, match="17 inputs have too many supports; 16 are the most"):
        exhaustive(torch.ones(1, 17), torch.eye(17), PerRow(0.5))


def test_the_error_of_nothing_is_all() -> None:
    weight, hessian = problem(0)
    assert relative_error(weight, torch.zeros_like(weight), hessian) == pytest.approx(1)
    assert relative_error(weight, weight, hessian) == 0
