import random

import numpy as np
import pytest
import torch
from torch import nn

from penjing.workload import device_of, preserved, preserved_randomness


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.BatchNorm1d(3), nn.Dropout()), nn.Linear(3, 2))


def test_the_mode_of_every_submodule_comes_back(model):
    model[1].eval()
    model[1][1].train()
    before = [part.training for part in model.modules()]
    assert set(before) == {True, False}
    with preserved(model):
        model.eval()
        assert not any(part.training for part in model.modules())
    assert [part.training for part in model.modules()] == before


def test_everything_comes_back_after_an_error(model):
    model[0].weight.requires_grad_(False)
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="shapes"), preserved(model):
        model.eval().requires_grad_(True)(torch.rand(2, 7))
    assert model[1][1].training
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True, True, True]
    assert torch.equal(torch.get_rng_state(), state)


def test_dtypes_and_values_come_back_bit_for_bit(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weight = model[0].weight
    with preserved(model):
        model.to(torch.bfloat16)
        assert weight.dtype is torch.bfloat16
    assert model[0].weight is weight
    for name, value in model.state_dict().items():
        assert value.dtype is before[name].dtype
        assert torch.equal(value, before[name])


def test_the_device_comes_back(model):
    with preserved(model):
        model.to("meta")
        assert device_of(model).type == "meta"
    assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"cpu"}
    assert torch.isfinite(model(torch.zeros(2, 3))).all()


def test_gradients_come_back(model):
    model(torch.ones(4, 3)).sum().backward()
    before = [(p.grad, p.grad.clone()) for p in model.parameters()]
    with preserved(model):
        model.double()
        model.zero_grad()
    for parameter, (grad, value) in zip(model.parameters(), before, strict=True):
        assert parameter.grad is grad
        assert torch.equal(grad, value)


def test_whoever_holds_the_parameters_still_does(model):
    held = list(model.parameters())
    with preserved(model):
        model.half()
    model(torch.ones(4, 3)).sum().backward()
    assert all(mine is theirs for mine, theirs in zip(held, model.parameters(), strict=True))
    assert all(parameter.grad is not None for parameter in held)


def test_randomness_comes_back():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    with preserved_randomness():
        first = draw()
    assert draw() == first
    assert draw() != first
