"""Lossless removes what contributes nothing, until there is nothing left, and the model stays what it was."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import prune

import penjing as pj
from penjing.errors import RecipeError
from penjing.recipe import Recipe
from penjing.structure import couple
from penjing.structure.dead import dead_units
from penjing.techniques import Outcome, apply
from penjing.techniques.sparsify import copy_pruned


def widths(model: nn.Module) -> list[int]:
    """Output widths of the weights, in order."""
    return [len(parameter) for name, parameter in model.named_parameters() if name.endswith("weight")]


def lossless(model: nn.Module, x: Tensor, *before: Any, **how: Any) -> Outcome:
    """Apply Lossless, and check that nothing changed and that it was proven."""
    torch.manual_seed(0)
    expected = apply(model, before, x).model if before else copy_pruned(model)
    outcome = apply(model, [*before, pj.Lossless()], x, **how)
    many = torch.cat([x, torch.randn_like(x), 100 * torch.randn_like(x)])
    torch.testing.assert_close(outcome.model.eval()(many), expected.eval()(many), rtol=1e-4, atol=1e-5)
    proofs = [row.proof for row in outcome.log if row.proof is not None]
    assert all("against the original as it is" in proof for proof in proofs)
    return outcome


def mlp(*sizes: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("prefer", ["module", "graph"])
def test_what_element_pruning_emptied_goes_and_masks_go_with_it(prefer: str) -> None:
    outcome = lossless(mlp(6, 40, 40, 4), torch.randn(2, 6), pj.Sparsify(0.9), prefer=prefer)
    parameters = dict(outcome.model.named_parameters())
    assert parameters["0.weight"].shape[0] < 40
    assert parameters["2.weight"].shape[1] == parameters["0.weight"].shape[0]
    for name, mask in outcome.masks.items():
        assert mask.shape == parameters[name].shape
        assert not parameters[name][~mask].any()
    assert any("contributed nothing" in row.what for row in outcome.log)


def test_masks_of_torch_are_read() -> None:
    model = mlp(4, 8, 3)
    prune.custom_from_mask(model[0], "weight", torch.arange(8)[:, None].expand(8, 4) < 5)
    outcome = lossless(model, torch.randn(2, 4))
    assert widths(outcome.model) == [5, 3]
    assert outcome.masks["0.weight"].shape == (5, 4)


def test_constants_of_emptied_units_are_folded_exactly() -> None:
    model = mlp(4, 8, 3)
    with torch.no_grad():
        model[0].weight[[1, 2]] = 0
        model[0].bias[[1, 2]] = torch.tensor([2.0, -1.0])
    outcome = lossless(model, torch.randn(2, 4))
    assert widths(outcome.model) == [6, 3]
    torch.testing.assert_close(outcome.model[2].bias, model[2].bias + 2 * model[2].weight[:, 1])


def test_a_constant_that_a_padded_convolution_reads_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1))
    with torch.no_grad():
        model[0].weight[[0, 1]] = 0
        model[1].bias[1] = 3.0
        model[1].bias[0] = -3.0
    outcome = lossless(model.eval(), torch.randn(2, 3, 6, 6))
    assert widths(outcome.model) == [5, 5, 4]


def test_what_a_norm_scales_by_zero_goes() -> None:
    """As network slimming leaves it: the convolution before the norm is not zero."""
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1))
    with torch.no_grad():
        model[1].weight[[2, 4]] = 0
        model[1].bias.uniform_()
    assert widths(lossless(model.eval(), torch.randn(2, 3, 6, 6)).model) == [4, 4, 4]


def test_what_nobody_reads_takes_what_it_reads_with_it() -> None:
    model = mlp(4, 8, 8, 3)
    with torch.no_grad():
        model[4].weight[:, 2:] = 0  # two of the second layer are read
        model[2].weight[:2, 3:] = 0  # they read three of the first
    assert widths(lossless(model, torch.randn(2, 4)).model) == [3, 2, 3]


class Block(nn.Module):
    """A residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(width, 12), nn.Linear(12, width), nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.b(F.gelu(self.a(x))))


def test_a_branch_that_dies_keeps_a_single_unit() -> None:
    """A branch whose last norm is zero, as some initialisations have it."""
    model = nn.Sequential(nn.Linear(4, 8), Block(8), Block(8), nn.Linear(8, 3)).eval()
    nn.init.zeros_(model[1].norm.weight)
    outcome = lossless(model, torch.randn(2, 4))
    assert outcome.model[1].a.out_features == 1
    assert outcome.model[2].a.out_features == 12


def test_a_head_whose_values_are_zero_goes() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.out = (nn.Linear(6, 12), nn.Linear(6, 12), nn.Linear(6, 12), nn.Linear(12, 3))

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (f(x).unflatten(-1, (-1, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
            return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    model = Attention()
    with torch.no_grad():
        model.v.weight[4:8] = 0
    outcome = lossless(model, torch.randn(2, 5, 6))
    assert outcome.model.get_parameter("q.weight").shape == (8, 6)


def test_a_unit_that_is_inactive_on_the_example_alone_lives() -> None:
    model = mlp(4, 8, 3)
    with torch.no_grad():
        model[0].bias[0] = -30.0
    outcome = lossless(model, torch.randn(2, 4))
    assert widths(outcome.model) == [8, 3]
    assert "every unit that could go contributes" in outcome.log[-1].what


def test_a_unit_that_a_choice_reads_lives() -> None:
    """Where the largest of some values lies has no gradient, and yet it depends on them."""

    class Choice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.router = nn.Linear(4, 8), nn.Linear(8, 3)
            self.table = nn.Parameter(torch.randn(3, 5))

        def forward(self, x: Tensor) -> Tensor:
            return self.table[self.router(F.relu(self.hidden(x))).argmax(-1)]

    assert dead_units(couple(Choice(), torch.randn(2, 4))) == {}


def data(model: nn.Module) -> pj.Workload:
    x, y = torch.randn(64, 4), torch.randint(3, (64,))
    return pj.Workload(model, x[:2], calibration=[(x, y)])


def test_what_is_inactive_on_all_calibration_data_goes_and_the_log_says_so() -> None:
    model = mlp(4, 8, 3)
    with torch.no_grad():
        model[0].bias.fill_(1.0)
        model[0].bias[[1, 5]] = -30.0
    work = data(model)
    outcome = apply(work, pj.Lossless())
    assert widths(outcome.model) == [6, 3]
    (row,) = (row for row in outcome.log if "calibration samples" in row.what)
    assert row.what.startswith("removed 2 of 8 units of 0 that were zero on 64 calibration samples: on other data")
    assert row.proof is not None
    assert "as it is" not in row.proof
    x = next(iter(work.calibration_batches())).args[0]
    torch.testing.assert_close(outcome.model(x), model(x))
    assert widths(apply(work, pj.Lossless(inactive=False)).model) == [8, 3]


@pytest.mark.parametrize(("step", "width"), [(pj.Lossless(min_width=4), 4), (pj.Lossless(round_to=8), 8)])
def test_limits_of_widths(step: pj.Lossless, width: int) -> None:
    model = mlp(4, 16, 3)
    with torch.no_grad():
        model[0].weight[3:] = 0
        model[0].bias[3:] = 0
    assert widths(apply(model, step, torch.randn(2, 4)).model) == [width, 3]


@pytest.mark.parametrize("wrong", [{"min_width": 0}, {"round_to": 0}])
def test_impossible_widths_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(RecipeError, match="must be at least 1"):
        pj.Lossless(**wrong)  # type: ignore[arg-type]


def test_the_step_can_be_written_and_read() -> None:
    recipe = Recipe([pj.Sparsify(0.5), pj.Lossless(round_to=8, inactive=False)])
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
