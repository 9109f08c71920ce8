"""An optimizer moved over a cut takes the step that it would have taken on the masked original."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.optim import LBFGS, SGD, Adadelta, Adafactor, Adagrad, Adam, AdamW, NAdam, Optimizer, RAdam, RMSprop

import penjing as pj
from penjing.errors import RecipeError, ShapeError
from penjing.structure import Surgery, couple, cut, cut_in_place, remap_optimizer


class Net(nn.Module):
    """Three layers, and a parameter that no forward uses."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.tanh(self.b(F.tanh(self.a(x)))))


REMOVED = {"a": [1, 4], "b": [0]}
OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], Optimizer]] = {
    "sgd": lambda p: SGD(p, lr=0.1),
    "sgd with momentum": lambda p: SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "adam": lambda p: Adam(p, lr=0.01, foreach=True),
    "amsgrad": lambda p: Adam(p, lr=0.01, amsgrad=True, foreach=False),
    "fused adamw": lambda p: AdamW(p, lr=0.01, fused=True),
    "rmsprop": lambda p: RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "adagrad": lambda p: Adagrad(p, lr=0.01),
    "adadelta": lambda p: Adadelta(p),
    "nadam": lambda p: NAdam(p, lr=0.01),
    "radam": lambda p: RAdam(p, lr=0.01),
}


def trained(make: Callable[[list[nn.Parameter]], Optimizer]) -> tuple[nn.Module, Optimizer]:
    torch.manual_seed(0)
    model = Net().double()
    optimizer = make(list(model.parameters()))
    for _ in range(3):
        step(model, optimizer)
    return model, optimizer


def step(model: nn.Module, optimizer: Optimizer) -> None:
    x = torch.linspace(-1, 1, 20, dtype=torch.float64).reshape(5, 4)
    optimizer.zero_grad()
    model(x).square().sum().backward()
    optimizer.step()


@pytest.fixture(scope="module")
def surgery() -> Surgery:
    return cut(couple(Net().double(), torch.zeros(2, 4, dtype=torch.float64)), REMOVED).surgery


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_next_step_is_that_of_the_masked_original(name: str, surgery: Surgery) -> None:
    model, optimizer = trained(OPTIMIZERS[name])
    smaller = cut_in_place(copy.deepcopy(model), surgery)
    masked, masking = copy.deepcopy((model, optimizer))
    _mask(masked, masking, surgery)
    moved = remap_optimizer(optimizer, model, smaller, surgery)
    assert moved is optimizer
    for _ in range(2):
        step(smaller, moved)
        step(masked, masking)
        _mask(masked, masking, surgery)
    for key, parameter in masked.named_parameters():
        torch.testing.assert_close(
            smaller.get_parameter(key), surgery.slice(key, parameter.detach()), rtol=1e-9, atol=1e-12
        )


def _mask(model: nn.Module, optimizer: Optimizer, surgery: Surgery) -> None:
    """Make everything zero that the surgery removes."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            for tensor in (parameter, *optimizer.state[parameter].values()):
                if isinstance(tensor, Tensor) and tensor.shape == parameter.shape:
                    alive = torch.ones_like(tensor)
                    for dim, kept in surgery.kept.get(name, {}).items():
                        here = torch.zeros(tensor.shape[dim], dtype=tensor.dtype)
                        here[torch.from_numpy(kept)] = 1
                        alive *= here.reshape([-1 if axis == dim else 1 for axis in range(tensor.ndim)])
                    tensor.mul_(alive)


def test_groups_options_and_schedulers_stay(surgery: Surgery) -> None:
    model = Net().double()
    optimizer = SGD(
        [{"params": [model.a.weight, model.unused], "lr": 0.5}, {"params": [model.c.bias], "name": "head"}], lr=0.1
    )
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.1)
    smaller = cut_in_place(copy.deepcopy(model), surgery)
    remap_optimizer(optimizer, model, smaller, surgery)
    first, second = optimizer.param_groups
    assert first["params"][0] is smaller.a.weight
    assert first["params"][1] is smaller.unused
    assert second["params"] == [smaller.c.bias]
    assert (first["lr"], second["lr"], second["name"]) == (0.5, 0.1, "head")
    step(smaller, optimizer)
    scheduler.step()
    assert (first["lr"], second["lr"]) == (0.05, pytest.approx(0.01))


def test_the_graph_route_keeps_what_it_has(surgery: Surgery) -> None:
    model, optimizer = trained(OPTIMIZERS["adam"])
    done = cut(couple(model, torch.zeros(2, 4, dtype=torch.float64)), REMOVED)
    remap_optimizer(optimizer, model, done.module, done.surgery)
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(p) for p in done.module.parameters()}
    assert optimizer.state[done.module.get_parameter("a.weight")]["exp_avg"].shape == (4, 4)
    step(done.module, optimizer)


def test_state_that_is_factored_along_dimensions_follows(surgery: Surgery) -> None:
    model, optimizer = trained(lambda p: Adafactor(p, lr=0.01))
    smaller = cut_in_place(copy.deepcopy(model), surgery)
    rows = optimizer.state[model.b.weight]["row_var"]
    remap_optimizer(optimizer, model, smaller, surgery)
    kept = surgery.kept["b.weight"][0]
    assert torch.equal(optimizer.state[smaller.b.weight]["row_var"], rows[torch.from_numpy(kept)])
    step(smaller, optimizer)


def test_tied_parameters_are_moved_once() -> None:
    model = nn.Sequential(
        nn.Linear(4, 4, bias=False), nn.Tanh(), nn.Linear(4, 4, bias=False), nn.Tanh(), nn.Linear(4, 2)
    )
    model[2].weight = model[0].weight
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(3, 4)).sum().backward()
    optimizer.step()
    surgery = Surgery({"2.weight": {0: torch.arange(3).numpy()}, "0.weight": {0: torch.arange(3).numpy()}})
    smaller = cut_in_place(copy.deepcopy(model), surgery)
    remap_optimizer(optimizer, model, smaller, surgery)
    assert optimizer.param_groups[0]["params"][0] is smaller[0].weight is smaller[2].weight
    assert optimizer.state[smaller[0].weight]["momentum_buffer"].shape == (3, 4)


def test_the_outcome_of_apply_is_all_it_takes() -> None:
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = Adam(model.parameters())
    model(torch.zeros(2, 4)).sum().backward()
    optimizer.step()
    outcome = pj.apply(model, pj.PruneChannels(0.5), torch.zeros(2, 4))
    pj.remap_optimizer(optimizer, model, outcome.model, outcome.surgery)
    assert optimizer.state[outcome.model[0].weight]["exp_avg"].shape == (8, 4)


def test_nothing_cut_is_a_move_only() -> None:
    model, optimizer = trained(OPTIMIZERS["adam"])
    twin = copy.deepcopy(model)
    before = optimizer.state[model.a.weight]["exp_avg"]
    remap_optimizer(optimizer, model, twin, None)
    assert optimizer.state[twin.a.weight]["exp_avg"] is before


def test_a_history_of_all_parameters_is_refused(surgery: Surgery) -> None:
    model = Net().double()
    with pytest.raises(RecipeError, match="LBFGS keeps the history of all parameters"):
        remap_optimizer(LBFGS(model.parameters()), model, cut_in_place(copy.deepcopy(model), surgery), surgery)


def test_what_does_not_belong_together_is_refused_and_changes_nothing(surgery: Surgery) -> None:
    model, optimizer = trained(OPTIMIZERS["adam"])
    smaller = cut_in_place(copy.deepcopy(model), surgery)
    before = list(optimizer.param_groups[0]["params"])
    with pytest.raises(ShapeError, match=r"a parameter of shape \(3,\) that is not one of Net"):
        remap_optimizer(optimizer, Net(), smaller, surgery)
    with pytest.raises(ShapeError, match=r"a\.weight has shape \(4, 4\) in the cut model"):
        remap_optimizer(optimizer, model, smaller, Surgery({}))
    optimizer.state[model.a.weight]["exp_avg"] = torch.zeros(7)
    with pytest.raises(ShapeError, match=r"exp_avg of a\.weight has shape \(7,\)"):
        remap_optimizer(optimizer, model, smaller, surgery)
    assert all(a is b for a, b in zip(before, optimizer.param_groups[0]["params"], strict=True))
    assert model.a.weight in optimizer.state
