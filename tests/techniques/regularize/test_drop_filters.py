"""Filters left out at random: the forward pass and gradients of scaled filters, and nothing that stays behind."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import penjing as pj
from penjing.errors import RecipeError
from penjing.techniques.regularize.drop_filters import dropping_filters, filter_mask


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(216, 3))


X = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_the_forward_pass_is_that_of_scaled_filters() -> None:
    model, twin = network().train(), network()
    torch.manual_seed(5)
    with dropping_filters(model, 0.5):
        outputs = model(X)
    torch.manual_seed(5)
    mask = filter_mask(6, 0.5)
    assert 0 < (mask == 0).sum() < 6
    weights = {"0.weight": (twin[0].weight * mask.view(-1, 1, 1, 1)).detach().requires_grad_()}
    expected = torch.func.functional_call(twin, weights, X)
    torch.testing.assert_close(outputs, expected)
    outputs.square().sum().backward()
    (gradient,) = torch.autograd.grad(expected.square().sum(), weights["0.weight"])
    torch.testing.assert_close(model[0].weight.grad, gradient * mask.view(-1, 1, 1, 1))


def test_on_average_nothing_changes() -> None:
    torch.manual_seed(0)
    assert torch.stack([filter_mask(100, 0.3) for _ in range(400)]).mean() == pytest.approx(1, abs=0.02)


def test_it_is_of_training_alone_and_ends_with_it() -> None:
    model = network().eval()
    before = model(X)
    with dropping_filters(model, 0.9):
        assert torch.equal(model(X), before)
    with pytest.raises(KeyError), dropping_filters(model, 0.9):
        raise KeyError
    assert not any(module._forward_hooks for module in model.modules())


def test_as_a_field_of_the_training() -> None:
    labels = torch.tensor([0, 1, 2, 0])
    train, evaluation = ([(X + shift, labels) for shift in shifts] for shifts in ((0, 1, 2), (3, 4)))
    workload = pj.Workload(network(), X, train=train, evaluation=evaluation, loss=functional.cross_entropy)

    def trained(share: float) -> nn.Module:
        step = pj.Finetune(epochs=2, lr=0.1, distill=False, precision="fp32", drop_filters=share)
        return pj.apply(workload, step, seed=1).model

    weights = [trained(share).get_parameter("0.weight") for share in (0.0, 0.5, 0.5)]
    assert torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[0], weights[1])


def test_what_cannot_be_asked() -> None:
    with pytest.raises(RecipeError, match=r"drop_filters=1.0 must lie in \[0, 1\)"):
        pj.Finetune(drop_filters=1.0)
    with (
        pytest.raises(RecipeError, match=r"drop_filters=0\.1: Linear has no convolution layer"),
        dropping_filters(nn.Linear(2, 2), 0.1),
    ):
        pass
