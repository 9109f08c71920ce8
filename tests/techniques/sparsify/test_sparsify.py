"""Sparsify gives the masks of torch.nn.utils.prune bit for bit, and goes on where torch left off."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from penjing.errors import RecipeError
from penjing.recipe import Sparsify
from penjing.techniques.sparsify import (
    SCORES,
    copy_pruned,
    read_torch_masks,
    register_score,
    run,
    sparsity,
    take_torch_masks,
)
from penjing.techniques.sparsify.parameters import weight_names
from penjing.techniques.state import Context, State
from penjing.workload.samples import resnet18


def sparsify(model: nn.Module, step: Sparsify, **masks: Tensor) -> State:
    return run(State(copy_pruned(model), example=None, masks=masks), step, Context(None, model, seed=3))  # type: ignore[arg-type]


def pairs(model: nn.Module) -> list[tuple[nn.Module, str]]:
    return [(m, "weight") for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def assert_same_masks(state: State, theirs: nn.Module) -> None:
    expected = read_torch_masks(theirs)
    assert state.masks.keys() == expected.keys()
    for name, mask in expected.items():
        assert torch.equal(state.masks[name], mask), name
        module, _, attribute = name.rpartition(".")
        assert torch.equal(state.model.get_parameter(name), getattr(theirs.get_submodule(module), attribute))


def test_the_example_of_the_torch_tutorial_on_resnet18() -> None:
    torch.manual_seed(0)
    model = resnet18()
    theirs = copy.deepcopy(model)
    prune.global_unstructured(pairs(theirs), pruning_method=prune.L1Unstructured, amount=0.2)
    assert_same_masks(sparsify(model, Sparsify(0.2)), theirs)
    assert_same_masks(sparsify(model, Sparsify(0.2, parameters=pairs(model))), theirs)


@pytest.mark.parametrize("scope", ["global", "local"])
def test_random_masks_are_those_of_torch(scope: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 5))
    theirs = copy.deepcopy(model)
    torch.manual_seed(3)
    if scope == "global":
        prune.global_unstructured(pairs(theirs), pruning_method=prune.RandomUnstructured, amount=0.3)
    else:
        for module, name in pairs(theirs):
            prune.random_unstructured(module, name, amount=0.3)
    assert_same_masks(sparsify(model, Sparsify(0.3, score="random", scope=scope)), theirs)


shapes = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4)
amounts = st.one_of(st.floats(0, 0.99), st.integers(0, 1))


def chain(sizes: list[tuple[int, int]], seed: int) -> nn.Module:
    model = nn.Sequential(*(nn.Linear(i, o) for i, o in sizes))
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():  # few levels, so that ties are the rule
        p.data = torch.randint(-3, 4, p.shape, generator=generator).float()
    return model


@settings(max_examples=60, deadline=None)
@given(shapes, st.lists(amounts, min_size=1, max_size=3), st.sampled_from(["global", "local"]), st.integers(0, 9))
def test_any_sequence_of_steps_equals_torch(
    sizes: list[tuple[int, int]], steps: list[float | int], scope: str, seed: int
) -> None:
    model = chain(sizes, seed)
    theirs = copy.deepcopy(model)
    state = State(copy.deepcopy(model), example=None)  # type: ignore[arg-type]
    for amount in steps:
        try:
            if scope == "global":
                prune.global_unstructured(pairs(theirs), pruning_method=prune.L1Unstructured, amount=amount)
            else:
                for module, name in pairs(theirs):
                    prune.l1_unstructured(module, name, amount=amount)
        except ValueError:
            with pytest.raises(RecipeError, match="weights that are left"):
                run(state, Sparsify(amount, scope=scope), Context(None, model))
            return
        state = run(state, Sparsify(amount, scope=scope), Context(None, model))
    assert_same_masks(state, theirs)


def test_goes_on_from_a_model_that_torch_has_pruned() -> None:
    model = chain([(6, 6), (6, 5)], 1)
    prune.global_unstructured(pairs(model), pruning_method=prune.L1Unstructured, amount=0.3)
    theirs = copy_pruned(model)
    prune.global_unstructured(pairs(theirs), pruning_method=prune.L1Unstructured, amount=0.5)
    state = sparsify(model, Sparsify(0.5, parameters=pairs(model)))
    assert_same_masks(state, theirs)
    assert sorted(n for n, _ in state.model.named_parameters()) == ["0.bias", "0.weight", "1.bias", "1.weight"]
    assert not list(state.model.buffers())
    torch.export.export(state.model, (torch.zeros(2, 6),))
    assert prune.is_pruned(model)  # the user's model is as it was


def test_masks_of_tensors_that_the_step_leaves_alone_survive() -> None:
    model = chain([(4, 4), (4, 4)], 2)
    prune.l1_unstructured(model[0], "weight", amount=4)  # type: ignore[index]
    state = sparsify(model, Sparsify(2, parameters=["1.weight"]))
    assert int((~state.masks["0.weight"]).sum()) == 4
    assert int((~state.masks["1.weight"]).sum()) == 2


def test_copy_and_take() -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    prune.random_unstructured(model[0], "weight", amount=0.5)
    x = torch.randn(2, 3)
    model(x)  # leaves a weight with a gradient history, which deepcopy refuses
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(model)
    twin = copy_pruned(model)
    assert torch.equal(twin(x), model(x))
    masks = take_torch_masks(twin)
    assert torch.equal(twin(x), model(x))
    assert torch.equal(masks["0.weight"], model[0].weight_mask.bool())  # type: ignore[union-attr, operator]
    assert not prune.is_pruned(twin)


def test_scores() -> None:
    model = chain([(8, 8)], 3)
    first, again = sparsify(model, Sparsify(0.5, score="random")), sparsify(model, Sparsify(0.5, score="random"))
    assert torch.equal(first.masks["0.weight"], again.masks["0.weight"])
    assert not torch.equal(first.masks["0.weight"], sparsify(model, Sparsify(0.5)).masks["0.weight"])
    register_score("largest", lambda weight, evidence: -weight.abs())
    try:
        mask = sparsify(model, Sparsify(8, score="largest")).masks["0.weight"]
        magnitude = model.get_parameter("0.weight").abs()
        assert magnitude[~mask].min() >= magnitude[mask].max()
        with pytest.raises(RecipeError, match="already registered"):
            register_score("largest", lambda weight, evidence: weight)
    finally:
        del SCORES["largest"]


def test_shared_weights_count_once() -> None:
    model = chain([(4, 4), (4, 4)], 4)
    model[1].weight = model[0].weight  # type: ignore[index, union-attr]
    state = sparsify(model, Sparsify(0.5))
    assert list(state.masks) == ["0.weight"]
    assert int((state.model[1].weight == 0).sum()) >= 8  # type: ignore[index, union-attr, operator, arg-type, call-overload]


def test_weights_of_a_captured_graph() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)).eval()
    graph = torch.export.export(model, (torch.zeros(1, 1, 4, 4),)).module()
    assert weight_names(graph) == weight_names(model) == ("0.weight", "3.weight")


def test_log_says_what_is_zero_and_that_nothing_is_faster() -> None:
    rows = sparsify(chain([(4, 4), (4, 4)], 5), Sparsify(8)).rows
    assert rows[-2].what.startswith("total:")
    assert "of 32 weights are zero" in rows[-2].what
    assert "no runtime" in rows[-1].what
    assert not any(row.fell_back for row in rows)


def test_parametrised_weights_are_left_alone_and_said_so() -> None:
    model = nn.Sequential(nn.Linear(3, 3), parametrizations.weight_norm(nn.Linear(3, 3)))
    state = sparsify(model, Sparsify(3))
    assert list(state.masks) == ["0.weight"]
    assert [row.what for row in state.rows if row.fell_back] == ["1.weight is parametrised and was left alone"]
    with pytest.raises(RecipeError, match="remove_parametrizations"):
        sparsify(model, Sparsify(3, parameters=["1.weight"]))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Sparsify(pattern="2:4"), r"pattern='2:4' takes groups of 4 inputs, but 0.weight has shape \(2, 2\)"),
        (Sparsify(pattern="2;4"), "pattern='2;4' is unknown; use unstructured, filters, .*, N:M such as '2:4'"),
        (Sparsify(pattern="4:4"), "pattern='4:4' must keep at least one of more"),
        (Sparsify(0.7, pattern="1:2"), "pattern='1:2' removes 0.5, not amount=0.7; leave it out"),
        (Sparsify(0.5, pattern="4x1"), "pattern='4x1' does not divide 0.weight, which is 2 x 2 as a matrix"),
        (Sparsify(0.5, pattern="kernels", parameters=["0.bias"]), r"0.bias has shape \(2,\) and no dimension 1"),
        (Sparsify({"1.*": 0.5}), r"amount names '1.\*', which matches no weight; known: 0.weight"),
        (Sparsify(0.5, score="l2", scope="deviation"), "not score='l2'; use 'l1'"),
        (Sparsify(0.5, pattern="filters", scope="row"), "takes units within an output, not pattern='filters'"),
        (Sparsify(0.5, score="snip"), "score='snip' needs a workload with train= and loss="),
        (Sparsify(0.5, score="wanda"), "score='wanda' needs a workload with calibration= data"),
        (Sparsify(0.5, score="l7"), "score='l7' is unknown; use one of l1, l2, random, lamp"),
        (Sparsify(0.5, schedule="sextic"), "schedule='sextic' is unknown; use one of constant, linear, cubic"),
        (Sparsify(pattern="1:2", schedule="cubic"), "pattern='1:2' knows no degrees"),
        (Sparsify(0.5, score="snip", schedule="cubic"), "score='snip' is not gathered while a model trains"),
        (Sparsify(0.5, score="movement"), "score='movement' is seen in training alone; give schedule="),
        (
            Sparsify(0.5, parameters=["0.wait"]),
            r"parameters\[0\]: the model has no parameter '0.wait'; its weights are 0.weight",
        ),
        (Sparsify(0.5, parameters=[(nn.Linear(2, 2), "weight")]), r"parameters\[0\]: Linear.* is no part of the model"),
        (Sparsify(0.5, parameters=[7]), r"parameters\[0\] is 7; give"),  # type: ignore[list-item]
        (Sparsify(99), "amount=99 is more than the 4 weights"),
    ],
)
def test_bad_steps(step: Sparsify, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        sparsify(chain([(2, 2)], 0), step)


def test_a_model_without_weights() -> None:
    with pytest.raises(RecipeError, match="no convolution or linear weight"):
        sparsify(nn.ReLU(), Sparsify(0.5))


def test_report_rows() -> None:
    layer = nn.Linear(2, 2)
    layer.weight.data = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    one, total = sparsity(layer)
    assert (one.zeros, one.size, one.share, total.zeros) == (3, 4, 0.75, 3)
    assert sparsity(nn.ReLU())[-1].share == 0
