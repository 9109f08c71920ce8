"""What can be bypassed is found, what cannot is not, and what is left out is proven."""

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import structure_zoo
import torch
from depth_zoo import NONE, ZOO, Chain, Residual, mlp
from torch import nn

from penjing.errors import ShapeError
from penjing.structure import (
    Captured,
    Surgery,
    capture,
    cut_in_place,
    restore_graph,
    save_graph,
)
from penjing.structure.blocks import Block, branches, find_blocks, layers
from penjing.structure.bypass import bypass, prove_bypass
from penjing.structure.stand_in import Bypass, put_bypasses, put_modules, stand_ins

# Where the class has a module for each layer that computes it and nothing else.
IN_PLACE = set(ZOO) - {"post-norm", "shared", "pre-activation", "tapped", "u-net of sums"}


@cache
def build(name: str) -> tuple[nn.Module, Captured]:
    torch.manual_seed(0)
    make, inputs, _, _ = ZOO[name]
    model = make().eval()
    return model, capture(model, inputs())


def names(blocks: tuple[Block, ...]) -> tuple[str, ...]:
    return tuple(block.name for block in blocks)


@pytest.fixture(scope="module", params=ZOO)
def case(request: pytest.FixtureRequest) -> tuple[str, nn.Module, Captured]:
    return request.param, *build(request.param)


def test_the_blocks_of_known_models(case: tuple[str, nn.Module, Captured]) -> None:
    name, _, captured = case
    _, _, expected_layers, expected_branches = ZOO[name]
    blocks = find_blocks(captured)
    assert names(layers(blocks)) == expected_layers
    assert names(branches(blocks)) == expected_branches


@pytest.mark.parametrize("name", NONE)
def test_what_cannot_be_bypassed_is_not_found(name: str) -> None:
    make, inputs = NONE[name]
    assert find_blocks(capture(make().eval(), inputs())) == ()


@pytest.mark.parametrize("name", ["vgg", "densenet", "unet", "tied autoencoder", "super resolution", "gru"])
def test_models_without_skips_have_no_blocks(name: str) -> None:
    model, example = structure_zoo.ZOO[name]()
    assert find_blocks(capture(model.eval(), example)) == ()


def test_a_branch_may_hold_others() -> None:
    _, captured = build("u-net of sums")
    inner, outer = find_blocks(captured)
    assert outer.contains(inner)
    assert not inner.contains(outer)
    assert prove_bypass(captured, bypass(captured, [outer]).module, [outer]).passed
    assert prove_bypass(captured, bypass(captured, [inner, outer]).module, [inner, outer]).passed


@pytest.mark.parametrize("name", ["resnet-18", "post-norm", "decoder"])
def test_the_same_blocks_are_found_in_a_rewritten_graph(name: str) -> None:
    _, captured = build(name)
    blocks = find_blocks(captured)
    again = find_blocks(capture(bypass(captured, ()).module, captured.example))
    assert [(block.name, block.parameters) for block in again] == [(block.name, block.parameters) for block in blocks]


@pytest.mark.parametrize("pick", [layers, branches])
def test_the_graph_without_blocks_is_proven(
    case: tuple[str, nn.Module, Captured], pick: Callable[[tuple[Block, ...]], tuple[Block, ...]]
) -> None:
    _, model, captured = case
    chosen = pick(find_blocks(captured))[::2]
    done = bypass(captured, chosen)
    proof = prove_bypass(captured, done.module, chosen)
    assert proof.passed, proof.describe()
    gone = {name for block in chosen for name in block.parameters}
    left = dict(done.module.named_parameters())
    assert not gone & left.keys()
    assert all(left[name] is parameter for name, parameter in model.named_parameters() if name in left)
    assert set(done.captured.shapes) == {node.name for node in done.captured.module.graph.nodes}


def test_batch_counters_go_with_their_norms() -> None:
    model, captured = build("resnet-18")
    (block,) = (block for block in find_blocks(captured) if block.name == "blocks.1")
    left = bypass(captured, [block]).module.state_dict().keys()
    assert left == {name for name in model.state_dict() if not name.startswith("blocks.1.")}


def test_the_smaller_graph_trains_at_any_batch_and_is_saved(tmp_path: Path) -> None:
    _, captured = build("resnet-18")
    module = bypass(captured, find_blocks(captured)[:3]).module.train()
    module(torch.randn(7, 1, 8, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    module.eval()
    save_graph(module, tmp_path / "graph.json")
    x = torch.randn(5, 1, 8, 8)
    assert torch.equal(restore_graph(tmp_path / "graph.json", module.state_dict())(x), module(x))


def test_the_class_without_blocks_is_proven_where_it_has_modules_for_them(
    case: tuple[str, nn.Module, Captured],
) -> None:
    name, model, captured = case
    chosen = layers(find_blocks(captured))
    chosen = chosen[1:] or chosen  # torch's own encoder reads the weights of its first layer
    forms = stand_ins(model, captured, chosen)
    assert (forms is not None) == (name in IN_PLACE)
    if forms is not None:
        smaller = cut_in_place(copy.deepcopy(model), Surgery({}, bypassed=forms))
        proof = prove_bypass(captured, smaller, chosen)
        assert proof.passed, proof.describe()
        assert type(smaller) is type(model)
        assert smaller.state_dict().keys() <= model.state_dict().keys()


def test_a_module_that_returns_a_tuple_is_replaced_by_one_that_does() -> None:
    model, captured = build("decoder")
    assert stand_ins(model, captured, layers(find_blocks(captured))) == {"layers.0": 2, "layers.1": 2}


def test_a_stand_in_keeps_what_the_code_around_it_reads() -> None:
    module = nn.Linear(2, 2)
    module.kind, module.hidden = "full", torch.zeros(1)  # type: ignore[assignment]
    stand_in = Bypass.of(module.eval(), 2)
    assert not stand_in.training
    assert (stand_in.kind, stand_in.in_features, stand_in.items) == ("full", 2, 2)
    assert "hidden" not in vars(stand_in)


def test_modules_are_put_back() -> None:
    model, _ = build("parallel")
    before = copy.deepcopy(model.state_dict())
    put_modules(model, put_bypasses(model, {"blocks.0": None}))
    assert model.state_dict().keys() == before.keys()


def test_the_proof_sees_another_block_left_out() -> None:
    _, captured = build("resnet-18")
    first, second = find_blocks(captured)[:2]
    proof = prove_bypass(captured, bypass(captured, [second]).module, [first])
    assert not proof.passed
    assert "branches add zero" in proof.what


def test_the_proof_is_not_fooled_by_a_branch_that_starts_at_zero() -> None:
    model, captured = build("convnext")
    (block,) = (block for block in find_blocks(captured) if block.name == "features.1")
    assert not prove_bypass(captured, model, [block]).passed
    assert prove_bypass(captured, bypass(captured, [block]).module, [block]).passed


def test_nothing_is_proven_where_no_output_depends_on_the_branch() -> None:
    class Chosen(Chain):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * 0 + x[:, :3]

    captured = capture(Chosen(Residual(mlp()), Residual(mlp())).eval(), torch.randn(3, 4))
    (block, _) = find_blocks(captured)
    proof = prove_bypass(captured, bypass(captured, [block]).module, [block])
    assert not proof.passed
    assert "nothing is proven" in proof.what


def test_an_activation_that_writes_its_input_leaves_a_skip_alone_that_is_read_later() -> None:
    _, captured = build("tapped")
    (block,) = find_blocks(captured)
    graph = bypass(captured, [block]).captured.module.graph
    assert any(node.target is torch.ops.aten.clone.default for node in graph.nodes)
    _, captured = build("into the branch")
    graph = bypass(captured, find_blocks(captured)).captured.module.graph
    assert not any(node.target is torch.ops.aten.clone.default for node in graph.nodes)


def test_a_surgery_with_bypasses_is_written_and_composed() -> None:
    first = Surgery({"layers.0.w": {0: np.array([0, 2])}, "head.w": {1: np.array([1])}}, {"layers.0.heads": 2})
    both = first.then(Surgery({}, bypassed={"layers.0": None, "layers.1": 2}))
    assert set(both.kept) == {"head.w"}
    assert not both.attributes
    assert Surgery.from_json(both.to_json()).bypassed == {"layers.0": None, "layers.1": 2}
    assert Surgery.from_json('{"schema": 1, "parameters": {}}').bypassed == {}


def test_a_surgery_for_another_model_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"no module 'layers\.9'"):
        cut_in_place(Chain(Residual(mlp())), Surgery({}, bypassed={"layers.9": None}))
