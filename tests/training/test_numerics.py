import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from penjing.errors import WorkloadError
from penjing.recipe import Finetune
from penjing.training.numerics import Numerics, choose_numerics, layout
from penjing.training.optimizers import build_optimizer, decays
from penjing.training.randomness import isolated_randomness
from penjing.training.schedules import cosine, step_factor, warmed_up


class Flat(nn.Module):
    """A model whose `view` refuses channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.bn(self.conv(x)).view(len(x), -1))
        return y


def loss_of(model: nn.Module, x: Tensor):  # type: ignore[no-untyped-def]
    def step(numerics: Numerics) -> Tensor:
        with numerics.autocast(x.device):
            return model(x + 0 * torch.rand(1)).float().square().mean()

    return step


def test_auto_times_every_candidate_and_leaves_the_model_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x = torch.randn(2, 2, 5, 5)
    torch.manual_seed(9)
    chosen, trials = choose_numerics("auto", model, loss_of(model, x))
    assert [str(t.numerics) for t in trials] == ["bf16, channels last", "fp32, channels last", "bf16", "fp32"]
    assert all(t.step_ms is not None and t.step_ms > 0 for t in trials)
    assert chosen in [t.numerics for t in trials]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(9)))
    assert all(p.grad is None and p.is_contiguous() for p in model.parameters())


def test_a_view_that_refuses_channels_last_falls_back_and_says_why() -> None:
    model = Flat()
    chosen, trials = choose_numerics("fp32", model, loss_of(model, torch.randn(2, 2, 4, 4)))
    assert chosen == Numerics("fp32", channels_last=False)
    assert trials[0].step_ms is None
    assert "view" in str(trials[0])


def test_a_given_precision_does_not_look_at_the_clock() -> None:
    model = nn.Linear(2, 2)

    def never(numerics: Numerics) -> Tensor:
        raise AssertionError

    assert choose_numerics("bf16", model, never) == (Numerics("bf16"), ())


def test_the_error_of_a_model_that_never_runs_comes_through() -> None:
    model = nn.Conv2d(1, 1, 1)
    with pytest.raises(RuntimeError, match="channels"):
        choose_numerics("auto", model, loss_of(model, torch.randn(1, 3, 4, 4)))


def test_layout_comes_back_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv2d(3, 2, 3))
    model[1].to(memory_format=torch.channels_last)
    weights = [p.clone() for p in model.parameters()]
    strides = [p.stride() for p in model.parameters()]
    with layout(model, channels_last=True):
        assert all(p.is_contiguous(memory_format=torch.channels_last) for p in model.parameters() if p.ndim == 4)
    assert [p.stride() for p in model.parameters()] == strides
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))


def draw() -> tuple[float, ...]:
    return torch.rand(1).item(), float(np.random.rand()), random.random()


def test_a_seed_governs_its_block_alone() -> None:
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    expected = draw()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    with isolated_randomness(3):
        first = draw()
    assert draw() == expected
    with isolated_randomness(3):
        assert draw() == first


def test_warmup_is_linear_and_the_end_is_zero() -> None:
    assert warmed_up(0.0, cosine, 0.1) == 0
    assert warmed_up(0.05, cosine, 0.1) == pytest.approx(0.5)
    assert warmed_up(0.1, cosine, 0.1) == 1
    assert warmed_up(1.0, cosine, 0.1) == pytest.approx(0)
    assert warmed_up(1.0, cosine, 1.0) == 1
    factors = [step_factor(i, 50, Finetune(warmup=0.2)) for i in range(50)]
    assert all(0 < f <= 1 for f in factors)
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_decay_spares_biases_norms_and_frozen_parameters_and_counts_ties_once() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.LayerNorm((2, 4)), nn.Linear(4, 4), nn.Linear(4, 4))
    model[4].weight = model[3].weight
    model[0].weight.requires_grad_(False)
    found = decays(model)
    assert [name for name, decays in found.items() if decays] == ["3.weight"]
    assert len(found) == 1 + 1 + 2 + 2 + 2
    groups = build_optimizer(model, Finetune(weight_decay=0.1)).param_groups
    assert {g["weight_decay"]: len(g["params"]) for g in groups} == {0.1: 1, 0.0: 7}


def test_nothing_trainable() -> None:
    with pytest.raises(WorkloadError, match="no trainable parameter"):
        build_optimizer(nn.Linear(1, 1).requires_grad_(False), Finetune())
