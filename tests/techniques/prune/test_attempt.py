"""The class stays the user's where the proof allows, at no smaller cut; eager_safe keeps it at any."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import penjing as pj
from penjing.structure import Coupling, couple, prove
from penjing.techniques.prune.attempt import largest_proven
from penjing.techniques.prune.bisect import Attempt, bisect
from penjing.techniques.prune.select import Units
from penjing.techniques.state import State


class Attention(nn.Module):
    """timm's way: the number of heads and their width are attributes, the scale is left to torch."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.attn_dim = 4, 4, 16
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, self.attn_dim))


class Model(nn.Module):
    """Blocks of some attention and a hidden layer."""

    def __init__(self, attention: type[nn.Module], blocks: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 16)
        self.attention = nn.ModuleList(attention() for _ in range(blocks))
        self.mlp = nn.ModuleList(nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)) for _ in range(blocks))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for attention, mlp in zip(self.attention, self.mlp, strict=True):
            x = x + attention(F.layer_norm(x, (16,)))
            x = x + mlp(F.layer_norm(x, (16,)))
        return self.head(x.mean(1))


class Stubborn(nn.Module):
    """The width of a head is what the input's width makes it: no head can go alone."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.qkv, self.out = 4, nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, c))


EXAMPLE = torch.randn(2, 7, 5)
HALF = pj.PruneChannels(0.5, round_to=None, compensate=False)


def model_of(attention: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return Model(attention).eval()


def test_another_choice_of_units_keeps_the_class() -> None:
    """Narrower heads would change the scale; whole heads meet the same budget."""
    outcome = pj.apply(model_of(Attention), HALF, EXAMPLE)
    assert type(outcome.model) is Model
    assert not outcome.graph
    assert not outcome.fallbacks
    assert {attention.head_dim for attention in outcome.model.attention} == {4}
    assert sum(attention.num_heads for attention in outcome.model.attention) < 8
    assert outcome.surgery is not None
    assert any(name.endswith("num_heads") for name in outcome.surgery.attributes)


def test_a_class_that_cannot_lose_enough_becomes_a_graph_with_a_row() -> None:
    outcome = pj.apply(model_of(Stubborn), HALF, EXAMPLE)
    assert outcome.graph
    (row,) = (row for row in outcome.fallbacks if "rewritten graph" in row.what)
    assert "eager_safe=True keeps the class" in row.what


def test_a_class_that_loses_little_of_what_was_asked_is_given_up() -> None:
    """torch's own attention cannot lose heads; the hidden layers alone would meet a budget of channels."""
    layer = nn.TransformerEncoderLayer(16, 4, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    assert pj.apply(model, HALF, torch.randn(2, 7, 16)).graph
    kept = pj.apply(model, dataclasses.replace(HALF, eager_safe=True), torch.randn(2, 7, 16))
    assert type(kept.model) is nn.TransformerEncoder
    assert sum(part.linear1.out_features for part in kept.model.layers) <= 16


def test_eager_safe_keeps_the_class_and_says_what_it_left_whole() -> None:
    model = model_of(Stubborn)
    outcome = pj.apply(model, pj.PruneChannels(0.5, round_to=None, compensate=False, eager_safe=True), EXAMPLE)
    assert type(outcome.model) is Model
    assert outcome.model.mlp[0][0].out_features < 32
    assert outcome.model.attention[0].qkv.out_features == 48
    left = [row.what for row in outcome.fallbacks if "attention.0.qkv" in row.what]
    assert left
    assert "was left whole" in left[0]


def test_under_eager_safe_the_budget_is_met_by_what_can_go() -> None:
    """Heads cannot go, so that the hidden layers lose more than their share."""
    model = model_of(Stubborn)
    step = pj.PruneChannels(0.25, of="params", scope="local", round_to=None, compensate=False, eager_safe=True)
    outcome = pj.apply(model, step, EXAMPLE)
    left, whole = (sum(parameter.numel() for parameter in each.parameters()) for each in (outcome.model, model))
    assert type(outcome.model) is Model
    assert left <= 0.75 * whole
    assert outcome.model.attention[0].qkv.out_features == 48


class Auxiliary(nn.Module):
    """A second head that only training uses, as in GoogLeNet: no graph of the eval mode holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head, self.aux = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = F.relu(self.a(x))
        y = self.head(F.relu(self.b(x)))
        return (y, self.aux(x)) if self.training else y


def test_a_class_must_still_train() -> None:
    step = pj.PruneChannels(0.5, scope="local", round_to=None, compensate=False)
    outcome = pj.apply(Auxiliary().eval(), step, torch.randn(2, 4))
    assert outcome.graph
    assert any("does not run in training mode" in row.what for row in outcome.fallbacks)
    outcome = pj.apply(Auxiliary().eval(), dataclasses.replace(step, eager_safe=True), torch.randn(2, 4))
    assert type(outcome.model) is Auxiliary
    assert (outcome.model.a.out_features, outcome.model.b.out_features) == (8, 4)
    assert outcome.model.train()(torch.randn(3, 4))[1].shape == (3, 2)


def test_a_model_cut_in_place_comes_back(tmp_path: object) -> None:
    outcome = pj.apply(model_of(Attention), HALF, EXAMPLE)
    outcome.save(tmp_path / "model")
    again = pj.restore(model_of(Attention), tmp_path / "model").eval()
    assert type(again) is Model
    assert torch.equal(again(EXAMPLE), outcome.model.eval()(EXAMPLE))
    assert [a.num_heads for a in again.attention] == [a.num_heads for a in outcome.model.attention]


def test_two_cuts_in_a_row_stay_in_place() -> None:
    step = pj.PruneChannels(0.6, round_to=None, compensate=False, iterations=2)
    outcome = pj.apply(model_of(Attention), step, EXAMPLE)
    assert type(outcome.model) is Model
    again = pj.apply(outcome.model, pj.PruneChannels(0.2, round_to=None, compensate=False), EXAMPLE)
    assert type(again.model) is Model


def test_a_class_that_cannot_be_set_becomes_a_graph() -> None:
    class Sealed(nn.Linear):
        def __setattr__(self, name: str, value: object) -> None:
            if name == "out_features" and "out_features" in vars(self):
                raise TypeError("sealed")
            super().__setattr__(name, value)

    model = nn.Sequential(Sealed(4, 16), nn.ReLU(), nn.Linear(16, 2))
    outcome = pj.apply(model, HALF, torch.randn(2, 4))
    assert outcome.graph
    assert any("it cannot be cut: sealed" in row.what for row in outcome.fallbacks)


class _Fate:
    """Attempts that fail as soon as one of some groups is cut."""

    def __init__(self, refuse: set[str]) -> None:
        self.refuse, self.tried = refuse, 0

    def __call__(self, removed: dict[str, Units]) -> Attempt:
        self.tried += 1
        bad = sorted(self.refuse & removed.keys())
        proof = type("Proof", (), {"passed": not bad, "what": f"it does not run without {bad}"})()
        return Attempt(dict(removed), None, None, proof, graph=False)


def units(*names: str) -> dict[str, Units]:
    return {name: np.array([0]) for name in names}


def test_what_passes_is_found_by_halves() -> None:
    names = [f"layers.{i}.{part}" for part in ("q", "v", "mlp", "gate") for i in range(12)]
    fate = _Fate({name for name in names if name.endswith(".v")})
    best, refused = bisect(fate, units(*names), "it fails")
    assert best is not None
    assert best.removed.keys() == {name for name in names if not name.endswith(".v")}
    assert refused.keys() == fate.refuse
    assert fate.tried <= 6


def test_one_layer_that_differs_does_not_spoil_the_others() -> None:
    names = [f"layers.{i}.mlp" for i in range(8)]
    fate = _Fate({"layers.5.mlp"})
    best, refused = bisect(fate, units(*names), "it fails")
    assert best is not None
    assert len(best.removed) == 7
    assert "layers.5.mlp" in refused["layers.5.mlp"]


def test_the_search_is_bounded() -> None:
    names = [chr(97 + i) for i in range(26)]
    fate = _Fate(set(names[::2]))
    best, refused = bisect(fate, units(*names), "it fails", proofs=10)
    assert fate.tried == 10
    assert best is not None
    assert best.removed.keys() | refused.keys() == set(names)
    assert any("10 proofs were spent" in why for why in refused.values())


def test_nothing_passes() -> None:
    best, refused = bisect(_Fate({"a"}), units("a"), "it fails")
    assert best is None
    assert list(refused) == ["a"]


def whole_of(coupling: Coupling) -> dict[str, Units]:
    return {group.name: np.array([0]) for group in coupling.groups if group.prunable and group.exact}


@pytest.mark.parametrize("eager_safe", [False, True])
def test_the_original_is_never_changed(eager_safe: bool) -> None:
    model = model_of(Stubborn)
    coupling = couple(model, EXAMPLE)
    before = copy.deepcopy(model.state_dict())
    done, _ = largest_proven(
        State(model, coupling.captured.example), coupling, whole_of(coupling), "module", eager_safe=eager_safe
    )
    assert done is not None
    assert done.graph != eager_safe
    assert done.module is not model
    assert {key: value.shape for key, value in model.state_dict().items()} == {
        key: value.shape for key, value in before.items()
    }
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert prove(coupling, done.cut, done.removed).passed or done.module is not None
