"""Every model of the zoo is cut by both routes and proven; the graph works at every batch size."""

import copy
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from structure_zoo import ZOO
from torch import nn

from penjing.structure import Coupling, capture, couple, cut, cut_in_place, prove
from penjing.structure.capture import fetch

# Their sizes are written into the forward: only the graph can be cut.
GRAPH_ONLY = {"transformer", "fused attention", "encoder"}
GROUPS = {
    "resnet": {"conv": 8, "blocks.0.conv1": 8, "blocks.1.conv1": 12, "blocks.1.conv2": 12},
    "vgg": {"features.0": 8, "features.4": 12, "head.0": 16},
    "densenet": {"stem": 6, "layers.0.2": 4, "layers.1.2": 4, "layers.2.2": 4},
    "mobilenet": {"stem.0": 8, "expand.0": 16, "squeeze": 4},
    "unet": {"down1": 6, "down2": 8, "up": 6, "join1": 6, "join2": 7},
    "tied autoencoder": {"first": 8, "second": 6},
    "tied language model": {"embed": 8, "hidden": 12},
    "mlp": {"embed": 12, "up": 16},
    "transformer": {"embed": 12, "attention.qkv": 3, "attention.qkv:2": 4, "mlp.0": 20},
    "fused attention": {"q": 2, "q:2": 4, "v": 4},
    "linear attention": {"q": 8, "v": 5},
    "gated mlp": {"up": 8},
    "group norm": {"conv1": 3, "conv1:2": 4},
    "super resolution": {"conv1": 8, "conv2": 4},
    "encoder": {
        "embed": 12,
        **{f"encoder.layers.{i}.self_attn": 3 for i in (0, 1)},
        **{f"encoder.layers.{i}.self_attn:2": 4 for i in (0, 1)},
        **{f"encoder.layers.{i}.linear1": 20 for i in (0, 1)},
    },
    "lstm": {"embed": 6, "rnn": 8},
    "gru": {"embed": 6, "rnn": 8},
}


def some(coupling: Coupling, share: float = 0.4, seed: int = 0) -> dict[str, np.ndarray]:
    choice = np.random.default_rng(seed)
    return {
        group.name: choice.choice(group.size, max(1, int(share * group.size)), replace=False)
        for group in coupling.groups
        if group.prunable
    }


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module", params=ZOO)
def case(request: pytest.FixtureRequest) -> tuple[str, nn.Module, torch.Tensor, Coupling]:
    torch.manual_seed(0)
    model, example = ZOO[request.param]()
    return request.param, model.eval(), example, couple(model, example)


Case = tuple[str, nn.Module, torch.Tensor, Coupling]


def test_groups_are_those_that_a_person_would_name(case: Case) -> None:
    name, _, _, coupling = case
    assert not coupling.unknown
    if name in GROUPS:
        found = {group.name: group.size for group in coupling.groups if group.prunable}
        assert dict(sorted(found.items())) == dict(sorted(GROUPS[name].items()))


def test_inexact_groups_are_those_that_pass_a_statistic(case: Case) -> None:
    inexact = {
        "mlp": {"embed"},
        "transformer": {"embed"},
        "encoder": {"embed"},
        "linear attention": {"q"},
        "group norm": {"conv1", "conv1:2"},
    }
    name, _, _, coupling = case
    found = {group.name for group in coupling.groups if group.prunable and not group.exact}
    assert found <= inexact.get(name, set())
    assert bool(found) == (name in inexact)


def test_graph_route_is_proven(case: Case) -> None:
    _, model, _, coupling = case
    removed = some(coupling)
    done = cut(coupling, removed)
    proof = prove(coupling, done, removed)
    assert proof.passed, proof.what
    assert proof.max_relative_difference < 1e-12
    assert proof.exact == all(group.exact for group in coupling.groups if group.prunable)
    assert parameters(done.module) < 0.8 * parameters(model)


def test_every_group_alone_is_proven(case: Case) -> None:
    _, _, _, coupling = case
    for group in coupling.groups:
        removed = {group.name: [group.size - 1]}
        if group.prunable:
            assert prove(coupling, cut(coupling, removed), removed).passed, group.name


def test_in_place_route_is_proven_or_refused(case: Case) -> None:
    name, model, _, coupling = case
    removed = some(coupling)
    before = copy.deepcopy(model.state_dict())
    smaller = cut_in_place(copy.deepcopy(model), cut(coupling, removed).surgery)
    proof = prove(coupling, smaller, removed)
    assert type(smaller) is type(model)
    assert proof.passed == (name not in GRAPH_ONLY), proof.what
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


def test_both_routes_give_the_same_outputs_at_any_batch(case: Case) -> None:
    name, model, example, coupling = case
    removed = some(coupling)
    done = cut(coupling, removed)
    five = torch.cat([example, example, example])[:5]
    outputs = done.module(five)
    assert outputs.shape == model(five).shape
    if name not in GRAPH_ONLY:
        smaller = cut_in_place(copy.deepcopy(model), done.surgery).eval()
        torch.testing.assert_close(smaller(five), outputs, rtol=1e-4, atol=1e-5)


def test_shapes_after_are_the_shapes_of_the_cut(case: Case) -> None:
    _, _, _, coupling = case
    removed = some(coupling)
    done = cut(coupling, removed)
    predicted = coupling.shapes_after(removed)
    assert done.captured.shapes == predicted
    assert done.captured.shapes_at(coupling.captured.example) == predicted


def test_surgery_describes_every_tensor(case: Case) -> None:
    _, model, _, coupling = case
    done = cut(coupling, some(coupling))
    smaller = done.module.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(done.surgery.slice(name, tensor), smaller[name]), name


def test_members_say_where_units_lie(case: Case) -> None:
    _, _, _, coupling = case
    for group in coupling.groups:
        if group.prunable:
            unit = group.size - 1
            kept = cut(coupling, {group.name: [unit]}).surgery.kept
            for member in group.members:
                size = fetch(coupling.captured.module, member.parameter).shape[member.dim]
                gone = np.setdiff1d(np.arange(size), kept[member.parameter][member.dim])
                assert gone.tolist() == sorted(member.index[unit].tolist())


def test_a_rolled_weight_is_found(case: Case) -> None:
    """The proof must see a mistake in any single parameter, however small its effect."""
    _, _, _, coupling = case
    removed = some(coupling)
    done = cut(coupling, removed)
    rolled = 0
    for name, dims in done.surgery.kept.items():
        for dim in dims:
            wrong = copy.deepcopy(done.module)
            parameter = dict(wrong.named_parameters(remove_duplicate=False)).get(name)
            if parameter is None or parameter.ndim < 2 or parameter.shape[dim] < 2:
                continue
            with torch.no_grad():
                parameter.copy_(parameter.roll(1, dim))
            assert not prove(coupling, wrong, removed).passed, (name, dim)
            rolled += 1
    assert rolled


def test_a_second_cut_composes(case: Case) -> None:
    _, model, _, coupling = case
    first = cut(coupling, some(coupling, 0.3))
    again = couple(first.captured)
    removed = some(again, 0.3, seed=1)
    second = cut(again, removed)
    assert prove(again, second, removed).passed
    both = first.surgery.then(second.surgery)
    for name, tensor in model.state_dict().items():
        assert torch.equal(both.slice(name, tensor), second.module.state_dict()[name]), name


def test_the_graph_module_is_captured_like_any_model() -> None:
    model, example = ZOO["mobilenet"]()
    coupling = couple(model, example)
    removed = some(coupling)
    done = cut(coupling, removed)
    again = couple(capture(done.module, example))
    assert {group.name: group.size for group in again.groups} == {
        name: group.size for name, group in _by_name(couple(done.captured)).items()
    }
    removed = some(again, seed=2)
    assert prove(again, cut(again, removed), removed).passed


def _by_name(coupling: Coupling) -> Mapping[str, object]:
    return {group.name: group for group in coupling.groups}
