"""Penalties have the gradients of their closed forms, on the units that they name, and do their work in a training."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import penjing as pj
from penjing.errors import RecipeError
from penjing.recipe import Recipe
from penjing.techniques.regularize.hook import Penalize
from penjing.techniques.regularize.penalties import PENALTIES
from penjing.techniques.regularize.terms import terms_of
from penjing.training import LoopState
from penjing.types import Penalty
from penjing.workload import ExampleInputs

EXAMPLE = ExampleInputs.of(torch.zeros(2, 4, 5, 5))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(6, 3)
    )


def gradients(step: pj.Regularize, model: nn.Module, at: int = 0, of: int = 1) -> dict[str, Tensor]:
    """What the hook alone leaves behind."""
    model.zero_grad()
    hook = Penalize(step, terms_of(step, model, EXAMPLE))
    hook.after_backward(LoopState(model, torch.optim.SGD(model.parameters()), total_steps=of, step=at))
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_l1_pulls_every_weight_by_its_sign() -> None:
    model = network()
    found = gradients(pj.Regularize("l1", 0.5), model)
    assert found.keys() == {"0.weight", "3.weight", "5.weight"}
    for name, gradient in found.items():
        assert torch.equal(gradient, 0.5 * model.get_parameter(name).detach().sign())


@pytest.mark.parametrize("captured", [False, True])
def test_batch_norm_pulls_the_gains_alone(captured: bool) -> None:
    model: nn.Module = network()
    nn.init.normal_(model.get_parameter("1.weight"))
    if captured:
        model = torch.export.export(model.eval(), EXAMPLE.args).module()
    found = gradients(pj.Regularize("batch_norm", 2.0), model)
    assert found.keys() == {"1.weight"}
    assert torch.equal(found["1.weight"], 2 * model.get_parameter("1.weight").detach().sign())


NORMS_OF = {
    "filters": lambda w: w.reshape(len(w), -1).norm(dim=1).view(-1, *[1] * (w.ndim - 1)),
    "channels": lambda w: w.transpose(0, 1).flatten(1).norm(dim=1).view(1, -1, *[1] * (w.ndim - 2)),
    "kernels": lambda w: w.flatten(2).norm(dim=2)[..., None, None],
    "columns": lambda w: w.norm(dim=0, keepdim=True),
    "2x3": lambda w: (
        w.flatten(1).reshape(len(w) // 2, 2, -1, 3).norm(dim=(1, 3)).repeat_interleave(2, 0).repeat_interleave(3, 1)
    ).view(w.shape),
}


@pytest.mark.parametrize("pattern", NORMS_OF)
def test_group_lasso_pulls_each_unit_along_itself(pattern: str) -> None:
    model = network()
    with torch.no_grad():
        model.get_parameter("0.weight")[:2] = 0  # a unit of zeros has no direction, and no gradient
    found = gradients(pj.Regularize("group_lasso", 0.1, pattern=pattern, parameters=("0.*", "3.*")), model)
    assert found.keys() == {"0.weight", "3.weight"}
    for name, gradient in found.items():
        weight = model.get_parameter(name).detach()
        expected = torch.nan_to_num(0.1 * weight / NORMS_OF[pattern](weight))
        torch.testing.assert_close(gradient, expected)
    assert not found["0.weight"][:2].any()


def norms(model: nn.Module) -> Tensor:
    """Of the 8 channels between the two convolutions, with all that they own."""
    owned = [model.get_parameter("0.weight"), model.get_parameter("3.weight").transpose(0, 1)]
    rows = [w.detach().flatten(1) for w in owned]
    rows += [model.get_parameter(name).detach()[:, None] for name in ("0.bias", "1.weight", "1.bias")]
    return torch.cat(rows, 1).norm(dim=1)


def test_group_lasso_of_a_coupled_group_is_of_all_that_a_unit_owns() -> None:
    model = network()
    found = gradients(pj.Regularize("group_lasso", parameters="1.weight", strength=1.0), model)
    assert found.keys() == {"0.weight", "0.bias", "1.weight", "1.bias", "3.weight"}
    n = norms(model)
    torch.testing.assert_close(found["0.weight"], model.get_parameter("0.weight").detach() / n.view(-1, 1, 1, 1))
    torch.testing.assert_close(found["3.weight"], model.get_parameter("3.weight").detach() / n.view(1, -1, 1, 1))
    torch.testing.assert_close(found["1.weight"], model.get_parameter("1.weight").detach() / n)


def test_a_unit_of_several_indices_is_one() -> None:
    """Behind a flatten a channel owns a block of features."""
    model = nn.Sequential(nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(18, 3))
    found = gradients(pj.Regularize("group_lasso", 1.0), model)
    behind = model.get_parameter("2.weight").detach().view(3, 2, 9)
    own = torch.cat([model.get_parameter("0.weight").detach().flatten(1), behind.movedim(1, 0).flatten(1)], 1)
    n = torch.cat([own, model.get_parameter("0.bias").detach()[:, None]], 1).norm(dim=1)
    torch.testing.assert_close(found["2.weight"], (behind / n[None, :, None]).view(3, 18))


def test_group_variance_pulls_norms_apart() -> None:
    r"""dR/dw = -2 (n_u - mean) / ((U - 1) Var^2) w / n_u."""
    model = network().double()
    found = gradients(pj.Regularize("group_variance", 1.0, pattern="filters", parameters=("0.weight",)), model)
    weight = model.get_parameter("0.weight").detach()
    n = weight.flatten(1).norm(dim=1)
    slope = -2 * (n - n.mean()) / ((len(n) - 1) * n.var() ** 2)
    torch.testing.assert_close(found["0.weight"], (slope / n).view(-1, 1, 1, 1) * weight)


def test_units_that_are_alike_are_not_torn() -> None:
    assert not torch.autograd.functional.jacobian(
        lambda energy: PENALTIES[Penalty.GROUP_VARIANCE]([energy]), torch.ones(4)
    ).any()


def test_growing_pulls_the_lowest_units_alone_and_ever_more() -> None:
    model = network()
    step = pj.Regularize("growing", 2.0, amount=0.5, parameters=("1.weight",))
    lowest = norms(model).argsort()[:4].sort().values
    early, late = gradients(step, model, at=0, of=10), gradients(step, model, at=9, of=10)
    weight = model.get_parameter("0.weight").detach()
    for found, strength in ((early, 0.2), (late, 2.0)):
        assert found["0.weight"].flatten(1).any(1).nonzero().flatten().tolist() == lowest.tolist()
        torch.testing.assert_close(found["0.weight"][lowest], strength * weight[lowest])


@pytest.mark.parametrize("kind", PENALTIES)
def test_gradients_agree_with_differences(kind: Penalty) -> None:
    torch.manual_seed(1)
    values = torch.rand(5, dtype=torch.float64) + 0.5
    assert torch.autograd.gradcheck(lambda v: PENALTIES[kind]([v, v.square()]), values.requires_grad_())


@pytest.fixture(scope="module")
def workload() -> pj.Workload:
    torch.manual_seed(0)
    teacher, x = nn.Linear(8, 3), torch.randn(480, 8)
    y = teacher(x).argmax(1)
    batches = [(a, b) for a, b in zip(x.split(24), y.split(24), strict=True)]
    model = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 3))
    return pj.Workload(model, x[:2], train=batches[:12], evaluation=batches[12:], loss=nn.functional.cross_entropy)


def trained(workload: pj.Workload, **settings: Any) -> pj.Outcome:
    return pj.apply(workload, pj.Finetune(epochs=6, lr=0.05, distill=False, precision="fp32", **settings), seed=1)


def test_a_growing_penalty_makes_a_cut_cheap(workload: pj.Workload) -> None:
    growing = pj.Regularize("growing", 10.0, amount=0.5)
    small = pj.PruneChannels(0.5, score="l2", round_to=None, compensate=False)
    finetune = pj.Finetune(epochs=8, lr=0.05, distill=False, precision="fp32", regularize=growing)
    long, cut = (pj.apply(workload, steps, seed=1).model for steps in (finetune, [finetune, small]))
    x = torch.randn(50, 8)
    assert cut[0].out_features == 12  # type: ignore[index, union-attr]
    lost = (long(x) - cut(x)).norm() / long(x).norm()
    plain, plain_cut = (
        pj.apply(workload, steps, seed=1).model
        for steps in (
            pj.Finetune(epochs=8, lr=0.05, distill=False, precision="fp32"),
            [pj.Finetune(epochs=8, lr=0.05, distill=False, precision="fp32"), small],
        )
    )
    assert lost < 0.1 * (plain(x) - plain_cut(x)).norm() / plain(x).norm()


def test_group_lasso_empties_units_that_the_loss_does_not_ask_for(workload: pj.Workload) -> None:
    def least(model: nn.Module) -> float:
        weight = model.get_parameter("0.weight").detach()
        return float(np.sort(weight.norm(dim=1).numpy())[:6].max() / weight.norm(dim=1).max())

    outcome = trained(workload, regularize=pj.Regularize("group_lasso", 0.03))
    assert least(outcome.model) < 0.5 * least(trained(workload).model)
    assert any(row.what.startswith("penalty group_lasso of coupled units: ") for row in outcome.log)


def test_zeros_stay_zero_under_a_penalty(workload: pj.Workload) -> None:
    steps = [pj.Sparsify(0.5), pj.Finetune(1, regularize=[pj.Regularize("l1"), pj.Regularize("group_variance", 1e-3)])]  # type: ignore[arg-type]
    outcome = pj.apply(workload, steps, seed=1)
    for name, mask in outcome.masks.items():
        assert torch.equal(outcome.model.get_parameter(name) != 0, mask)


def test_a_penalty_is_data() -> None:
    step = pj.Finetune(regularize=[pj.Regularize("growing", 1.0, amount=0.3), pj.Regularize("l1")])  # type: ignore[arg-type]
    assert Recipe.from_yaml(Recipe([step]).to_yaml()) == Recipe([step])
    one = pj.Finetune(regularize=pj.Regularize("group_lasso", 1e-3, "4x1", parameters=("fc.*",)))
    assert Recipe.from_yaml(Recipe([one]).to_yaml()) == Recipe([one])
    assert "regularize={'kind': 'group_lasso', 'strength': 0.001" in one.explain()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "l3"}, "kind='l3' is unknown; use one of 'l1', 'batch_norm'"),
        ({"kind": "l1", "strength": 0}, "strength=0 must be positive"),
        ({"kind": "growing"}, "kind='growing', amount=None: .* belong together"),
        ({"kind": "l1", "amount": 0.5}, "kind='l1', amount=0.5: .* belong together"),
        ({"kind": "growing", "amount": 1.0}, r"amount=1.0 must be a share in \(0, 1\)"),
        ({"kind": "l1", "pattern": "filters"}, "kind='l1' is of single values; leave pattern='filters' out"),
        ({"kind": "group_lasso", "pattern": "2:4"}, "pattern='2:4' has no units; use 'coupled'"),
        ({"kind": "group_lasso", "pattern": "stars"}, "pattern='stars' is unknown"),
        ({"kind": "batch_norm"}, "kind='batch_norm', pattern='coupled' finds nothing that trains in Sequential"),
        ({"kind": "l1", "parameters": ("x",)}, r"among parameters=\('x',\)"),
    ],
)
def test_what_cannot_be_asked(settings: dict[str, Any], message: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(RecipeError, match=message):
        terms_of(pj.Regularize(**settings), model, ExampleInputs.of(torch.zeros(2, 4)))


def test_units_without_another_beside_them_have_no_variance() -> None:
    step = pj.Regularize("group_variance", pattern="filters")
    with pytest.raises(RecipeError, match="compares units, and none has another beside it; use 'group_lasso'"):
        terms_of(step, nn.Linear(4, 1), ExampleInputs.of(torch.zeros(2, 4)))
