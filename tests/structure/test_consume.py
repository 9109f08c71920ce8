"""A cut that consumes its original gives the same result, and gives the memory back."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import penjing as pj
from penjing.structure import couple, cut, cut_in_place, prove
from penjing.structure.proof import prove_class
from penjing.structure.surgery import cut_when_read


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Embedding(20, 8), nn.LayerNorm(8), nn.Linear(8, 20, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.embed(x) * self.scale))


def test_what_is_consumed_is_emptied_and_the_cut_is_the_same() -> None:
    torch.manual_seed(0)
    model, x = Tied().eval(), torch.randint(0, 20, (2, 5))
    kept = copy.deepcopy(model)
    model(x).sum().backward()
    (group,) = couple(kept, x).groups
    expected = cut(couple(kept, x), {group.name: [1, 4, 6]}).module(x)
    coupling = couple(model, x)
    done = cut(coupling, {group.name: [1, 4, 6]}, consume=True)
    torch.testing.assert_close(done.module(x), expected, rtol=0, atol=0)
    assert done.module.get_parameter("head.weight") is done.module.get_parameter("embed.weight")
    assert {name: tensor.numel() for name, tensor in model.state_dict().items()} == dict.fromkeys(model.state_dict(), 0)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_is_whole_is_shared_and_stays() -> None:
    model, x = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4), nn.Linear(4, 2)), torch.zeros(2, 3)
    weight = model[3].weight
    done = cut(couple(model, x), {"0": [0, 5]}, consume=True)
    assert done.module.get_parameter("3.weight") is weight
    assert weight.shape == (2, 4)
    assert model[0].weight.numel() == model[2].weight.numel() == 0


def test_a_cut_that_slices_as_it_reads_is_proven_and_copies_nothing() -> None:
    torch.manual_seed(0)
    model, x = Tied().eval(), torch.randint(0, 20, (2, 5))
    coupling = couple(model, x)
    (group,) = coupling.groups
    removed = {group.name: [1, 4, 6]}
    late = cut_when_read(coupling, removed)
    assert {id(p) for p in late.module.parameters()} == {id(p) for p in model.parameters()}
    torch.testing.assert_close(late.module(x), cut(coupling, removed).module(x), rtol=0, atol=0)
    assert prove(coupling, late, removed).passed
    wrong = cut_when_read(coupling, {group.name: [1, 4, 5]})
    assert not prove(coupling, wrong, removed).passed


class Followed(nn.Module):
    """Constants of removed channels are folded into the layer behind, whole or cut; the class may refuse its cut."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.c = nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Linear(16, 24), nn.Linear(24, 3)
        self.fixed = fixed
        with torch.no_grad():
            self.norm.bias.copy_(torch.rand(16) + 1)
            self.a.weight[:6] *= 1e-3

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.a(x)))
        y = self.b(y.view(-1, 16) if self.fixed else y)
        return self.c(F.relu(y))


@pytest.mark.parametrize(("prefer", "fixed"), [("graph", False), ("module", False), ("module", True)])
def test_apply_that_consumes_gives_the_same_model(prefer: str, fixed: bool) -> None:
    torch.manual_seed(0)
    model, x = Followed(fixed).eval(), torch.randn(5, 4)
    step = pj.PruneChannels(0.4, round_to=1)
    expected = pj.apply(model, step, x, prefer=prefer)
    kept = copy.deepcopy(model)
    done = pj.apply(model, step, x, prefer=prefer, consume=True)
    assert type(done.model) is type(expected.model)
    assert (type(done.model) is Followed) is (prefer == "module" and not fixed)
    ours, theirs = done.model.state_dict(), expected.model.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    assert any("proven in float64" in (row.proof or "") for row in done.log)
    assert model.a.weight.shape != (16, 4), "the original gave way"
    assert not torch.equal(ours["b.bias"], kept.b.bias[: len(ours["b.bias"])]), "constants were folded"


def test_what_cannot_be_proven_leaves_the_original_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from penjing.structure.proof import Proof
    from penjing.techniques.prune import attempt

    monkeypatch.setattr(attempt, "prove", lambda *_, **__: Proof(1.0, True, False, "refused"))
    model, x = Followed(False).eval(), torch.randn(5, 4)
    before = copy.deepcopy(model.state_dict())
    done = pj.apply(model, pj.PruneChannels(0.4, round_to=1), x, consume=True)
    assert any("left whole" in row.what and "refused" in row.what for row in done.log)
    assert all(torch.equal(tensor, before[name]) for name, tensor in done.model.state_dict().items())


def test_a_class_that_computes_something_else_than_the_cut_graph_is_refused() -> None:
    model, x = Followed(False).eval(), torch.randn(5, 4)
    done = cut(couple(model, x), {"a": [1, 2]})
    own = cut_in_place(copy.deepcopy(model), done.surgery)
    assert prove_class(done, own).passed
    with torch.no_grad():
        own.c.weight.mul_(1 + 1e-6)
    proof = prove_class(done, own)
    assert not proof.passed
    assert "cut graph" in proof.what
