"""Patterns of zeros, how they are spread, and scores of weights: against torch, brute force and closed forms."""

import copy
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import prune

import penjing as pj
from penjing.errors import RecipeError
from penjing.recipe import Sparsify
from penjing.techniques.sparsify import copy_pruned, read_torch_masks, run
from penjing.techniques.sparsify.allocation import erdos_renyi_kernel
from penjing.techniques.state import Context, State


def masks(model: nn.Module, step: Sparsify, workload: Any = None, seed: int = 3) -> dict[str, Tensor]:
    state = run(State(copy_pruned(model), example=None), step, Context(workload, model, seed=seed))  # type: ignore[arg-type]
    for name, mask in state.masks.items():
        assert not state.model.get_parameter(name)[~mask].any()
    return dict(state.masks)


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 12))


@pytest.mark.parametrize(("pattern", "dim"), [("filters", 0), ("channels", 1)])
@pytest.mark.parametrize(("score", "n"), [("l1", 1), ("l2", 2)])
def test_structured_masks_are_those_of_torch(pattern: str, dim: int, score: str, n: int) -> None:
    model = small()
    theirs = copy.deepcopy(model)
    for module in (theirs[0], theirs[3]):  # type: ignore[index]
        prune.ln_structured(module, "weight", amount=0.5, n=n, dim=dim)
    found = masks(model, Sparsify(0.5, pattern=pattern, score=score, scope="local"))
    expected = read_torch_masks(theirs)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize(("pattern", "dim"), [("filters", 0), ("channels", 1)])
def test_random_structured_masks_are_those_of_torch(pattern: str, dim: int) -> None:
    model = small()
    theirs = copy.deepcopy(model)
    torch.manual_seed(7)
    for module in (theirs[0], theirs[3]):  # type: ignore[index]
        prune.random_structured(module, "weight", amount=0.25, dim=dim)
    found = masks(model, Sparsify(0.25, pattern=pattern, score="random", scope="local"), seed=7)
    assert all(torch.equal(found[name], mask) for name, mask in read_torch_masks(theirs).items())


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "4:8", "1:2"])
def test_n_of_m_keeps_the_best_of_each_group(pattern: str) -> None:
    keep, group = map(int, pattern.split(":"))
    model = nn.Sequential(nn.Linear(16, 5), nn.Conv1d(8, 3, 2))
    for name, mask in masks(model, Sparsify(pattern=pattern)).items():
        weight = model.get_parameter(name).detach().movedim(1, -1).reshape(-1, group)
        for row, kept in zip(weight, mask.movedim(1, -1).reshape(-1, group), strict=True):
            best = max(combinations(range(group), keep), key=lambda chosen: float(row[list(chosen)].square().sum()))
            assert kept.nonzero().flatten().tolist() == list(best)


def test_n_of_m_never_revives_what_is_gone() -> None:
    model = nn.Sequential(nn.Linear(8, 4))
    first = run(State(model, example=None), Sparsify(0.7), Context(None, model))  # type: ignore[arg-type]
    second = run(first, Sparsify(pattern="2:4"), Context(None, model))
    assert not (second.masks["0.weight"] & ~first.masks["0.weight"]).any()
    assert (second.masks["0.weight"].view(-1, 4).sum(1) <= 2).all()


@pytest.mark.parametrize("pattern", ["4x1", "1x4", "4x4", "2x3", "kernels", "columns"])
def test_units_live_and_die_together_the_smallest_mean_first(pattern: str) -> None:
    model = small()
    found = masks(model, Sparsify(0.5, pattern=pattern, parameters=["0.weight"]))["0.weight"]
    weight = model.get_parameter("0.weight").detach()
    matrix, kept = weight.abs().flatten(1), found.flatten(1)
    height, width = {"kernels": (1, 9), "columns": (8, 1)}.get(pattern) or map(int, pattern.split("x"))
    blocks = matrix.unfold(0, height, height).unfold(1, width, width).flatten(2)
    alive = kept.unfold(0, height, height).unfold(1, width, width).flatten(2)
    assert (alive.all(2) | ~alive.any(2)).all()
    means, stays = blocks.mean(2), alive.all(2)
    assert int(stays.sum()) == stays.numel() - round(0.5 * stays.numel())
    assert means[stays].min() >= means[~stays].max()


def test_erdos_renyi_kernel_meets_the_amount_and_spares_thin_tensors() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 64, 3), nn.Linear(64, 64), nn.Linear(64, 4))
    found = masks(model, Sparsify(0.9, scope="erk"))
    sizes = {name: mask.numel() for name, mask in found.items()}
    gone = {name: int((~mask).sum()) for name, mask in found.items()}
    assert abs(sum(gone.values()) - 0.9 * sum(sizes.values())) <= len(sizes)
    density = {name: 1 - gone[name] / sizes[name] for name in sizes}
    shapes = {name: model.get_parameter(name).shape for name in sizes}
    by_shape = {name: density[name] / (sum(shape) / shape.numel()) for name, shape in shapes.items()}
    free = [value for name, value in by_shape.items() if density[name] < 1]
    assert len(free) >= 2
    assert max(free) / min(free) < 1.05, "one epsilon for all"
    assert density["3.weight"] > density["1.weight"]
    assert erdos_renyi_kernel([torch.Size([2, 2])], 0.0) == [0.0]


def test_bounds_instead_of_shares() -> None:
    model = small()
    weight = model.get_parameter("3.weight").detach()
    deviation = masks(model, Sparsify(0.5, scope="deviation", parameters=["3.weight"]))["3.weight"]
    assert torch.equal(deviation, weight.abs() >= 0.5 * weight.std(correction=0))
    threshold = masks(model, Sparsify(0.05, scope="threshold", parameters=["3.weight"]))["3.weight"]
    assert torch.equal(threshold, weight.abs() >= 0.05)
    with pytest.raises(RecipeError, match="scope='threshold' needs amount= a bound"):
        Sparsify(scope="threshold")


def test_amounts_by_name() -> None:
    found = masks(small(), Sparsify({"0.*": 0.25, "*": 0.75}))
    assert [int((~found[name]).sum()) for name in ("0.weight", "3.weight")] == [72, 288]
    only = masks(small(), Sparsify({"3.*": 10}))
    assert {name: int((~mask).sum()) for name, mask in only.items()} == {"3.weight": 10}
    with pytest.raises(RecipeError, match=r"amount\['3'\]=1.5 must lie in \[0, 1\)"):
        Sparsify({"3": 1.5})


def test_the_same_share_of_each_output() -> None:
    found = masks(small(), Sparsify(0.25, scope="row"))
    for mask in found.values():
        rows = (~mask).flatten(1).sum(1)
        assert (rows == round(0.25 * mask[0].numel())).all()


def regression() -> tuple[nn.Module, pj.Workload, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Linear(6, 4, bias=False)
    x, y = torch.randn(20, 6), torch.randn(20, 4)
    data = [(x, y)]
    workload = pj.Workload(model, x[:2], train=data, calibration=[x], loss=F.mse_loss)
    return model, workload, x, y


def test_scores_of_gradients_and_inputs_equal_their_closed_forms() -> None:
    """For a linear least-squares loss: G = 2 (X W^T - Y)^T X / (n m), and H G = 2 G X^T X / (n m)."""
    model, workload, x, y = regression()
    weight = model.weight.detach().clone()  # type: ignore[union-attr, operator]
    scale = 2 / y.numel()
    gradient = scale * (x @ weight.T - y).T @ x
    expected = {
        "snip": (gradient * weight).abs(),
        "fisher": weight.square() * gradient.square() / 2,
        "grasp": weight * (scale * gradient @ x.T @ x),
        "wanda": weight.abs() * x.norm(dim=0),
        "lamp": weight.square(),
    }
    for name, scores in expected.items():
        mask = masks(model, Sparsify(10, score=name), workload)["weight"]
        assert int((~mask).sum()) == 10
        assert scores[mask].min() >= scores[~mask].max(), name
    assert model.weight.grad is None  # type: ignore[union-attr]
    assert torch.equal(model.weight, weight)  # type: ignore[arg-type]


def test_inputs_of_grouped_convolutions_go_to_the_right_weights() -> None:
    model = nn.Conv1d(4, 6, 1, groups=2, bias=False)
    nn.init.ones_(model.weight)
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1).expand(2, 4, 5)
    workload = pj.Workload(model, x, calibration=[x])
    mask = masks(model, Sparsify(9, score="wanda"), workload)["weight"]
    assert mask.squeeze(-1).tolist() == [[False, False]] * 3 + [[False, True]] * 3


def test_a_weight_that_no_layer_reads_is_told() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.w

    model, x = Own(), torch.ones(2, 4)
    workload = pj.Workload(model, x, calibration=[x])
    with pytest.raises(RecipeError, match="nothing is seen of what comes into w"):
        masks(model, Sparsify(0.5, score="wanda", parameters=["w"]), workload)


def test_filters_of_zeros_are_removed_by_the_lossless_step() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    for parameter in (model[0].bias,):
        nn.init.zeros_(parameter)
    outcome = pj.apply(
        model, [Sparsify(0.5, pattern="filters", parameters=["0.weight"]), pj.Lossless()], torch.randn(5, 4)
    )
    assert outcome.model[0].out_features == 8  # type: ignore[index, union-attr]
    assert any("Lossless() removes" in row.what for row in outcome.log)
