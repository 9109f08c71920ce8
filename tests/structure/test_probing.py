"""A proof that could not have failed is none; its inputs stay in range, nothing is random, nothing is changed."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from penjing.structure import capture, couple, cut, cut_in_place, prove
from penjing.structure.candidate import unchanged
from penjing.structure.dead import dead_units
from penjing.structure.probes import Care, probes


class Tail(nn.Module):
    """Two layers and an end by name."""

    def __init__(self, end: str) -> None:
        super().__init__()
        self.a, self.b, self.end = nn.Linear(4, 8), nn.Linear(8, 3), end

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(F.gelu(self.a(x)))
        match self.end:
            case "argmax":
                return y.argmax(-1)
            case "saturated":
                return torch.sign(y.abs() + 1)
            case "nan":
                return y * float("nan")
        return y


@pytest.mark.parametrize(
    ("end", "why"), [("argmax", "whole numbers"), ("saturated", "saturate"), ("nan", "no output is finite")]
)
def test_a_proof_that_could_not_fail_does_not_pass(end: str, why: str) -> None:
    coupling = couple(Tail(end), torch.randn(2, 4))
    proof = prove(coupling, cut(coupling, {"a": [0, 3]}), {"a": [0, 3]})
    assert not proof.passed
    assert "nothing is proven" in proof.what
    assert why in proof.what


def test_units_that_are_inactive_on_an_example_of_zeros_do_not_spoil_a_proof() -> None:
    for seed in range(4):
        torch.manual_seed(seed)
        coupling = couple(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(2, 3))
        assert prove(coupling, cut(coupling, {"0": [1, 3]}), {"0": [1, 3]}).passed


class Random(nn.Module):
    """Random in every mode, on the units that are cut."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.dropout(F.gelu(self.a(x)), 0.5, training=True)
        return self.b(y + 0.1 * torch.randn_like(y) * y)


def test_a_model_that_is_random_in_eval_mode_is_proven_by_both_routes() -> None:
    model = Random()
    coupling = couple(model, torch.randn(2, 4))
    done = cut(coupling, {"a": [1]})
    assert prove(coupling, done, {"a": [1]}).passed
    own = cut_in_place(copy.deepcopy(model), done.surgery)
    assert prove(coupling, own, {"a": [1]}).passed
    with torch.no_grad():
        own.b.weight.mul_(1 + 1e-6)
    assert not prove(coupling, own, {"a": [1]}).passed


def test_random_inputs_keep_the_range_of_the_example() -> None:
    class Many(nn.Module):
        def forward(self, image: Tensor, zeros: Tensor, whole: Tensor, ids: Tensor) -> Tensor:
            return image.sum() + zeros.sum() + whole.sum() + ids.sum()

    image, whole, ids = torch.rand(2, 5), torch.tensor([[1.0, 4.0], [2.0, 3.0]]), torch.arange(4).reshape(2, 2)
    captured = capture(Many(), (image, torch.zeros(2, 5), whole, ids))
    given, drawn = probes(captured, 0)
    assert torch.equal(given.args[0], image.double())
    image2, zeros2, whole2, ids2 = drawn.args
    assert len(image2) == 3
    assert image2.unique().numel() == image2.numel()
    assert image.min() <= image2.min()
    assert image2.max() <= image.max()
    assert zeros2.unique().numel() == zeros2.numel()
    assert set(whole2.flatten().tolist()) <= {1.0, 2.0, 3.0, 4.0}
    assert torch.equal(ids2.flatten().sort().values, captured.example.with_batch(3).args[3].flatten().sort().values)
    assert torch.equal(probes(captured, 0, Care.INTEGERS)[1].args[3], captured.example.with_batch(3).args[3])


def test_integers_whose_order_matters_stay_as_they_are() -> None:
    """Shuffled, the mask hides every position of some sample, whose output is then nan."""

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            y = F.relu(self.a(x)) * mask[..., None]
            return self.b(y.sum(1) / (mask.sum(1, keepdim=True) > 1).float())

    mask = torch.tensor([[1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0]])
    coupling = couple(Pooled(), (torch.randn(2, 8, 4), mask))
    assert prove(coupling, cut(coupling, {"a": [2]}), {"a": [2]}).passed


def test_indices_across_the_batch_are_probed_at_the_size_of_the_example() -> None:
    """The nodes of a graph are its batch: cut off, some edge would point to a node that is not there."""

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)
            nn.init.zeros_(self.b.weight[:, 5:].detach())

        def forward(self, x: Tensor, source: Tensor, target: Tensor) -> Tensor:
            y = F.relu(self.a(x))
            return self.b(torch.zeros_like(y).index_add(0, target, y[source]))

    edges = torch.tensor([[0, 4, 1, 3, 2, 4, 0], [1, 0, 4, 2, 3, 3, 2]])
    model = Graph()
    coupling = couple(model, (torch.randn(5, 4), *edges))
    done = cut(coupling, {"a": [2]})
    proof = prove(coupling, done, {"a": [2]})
    assert proof.passed, proof.what
    assert proof.what.endswith("batches 5 and 5")
    own = cut_in_place(copy.deepcopy(model), done.surgery)
    assert prove(coupling, own, {"a": [2]}).passed
    assert dead_units(coupling)["a"].tolist() == [5, 6, 7]
    with torch.no_grad():
        own.b.weight.mul_(1 + 1e-6)
    assert not prove(coupling, own, {"a": [2]}).passed


def test_what_is_removed_may_divide_zero_by_zero() -> None:
    """Heads of a linear attention: numerator and denominator of a removed one are zero in the masked original."""

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(5, 72), nn.Linear(24, 3)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (part.unflatten(-1, (3, 8)) for part in self.qkv(x).chunk(3, -1))
            q, k = F.elu(q) + 1, F.elu(k) + 1
            total = torch.einsum("nthd,nhd->nth", q, k.sum(1))
            y = torch.einsum("nthd,nhde->nthe", q, torch.einsum("nthd,nthe->nhde", k, v)) / total[..., None]
            return self.out(y.flatten(2))

    coupling = couple(Linear(), torch.randn(2, 7, 5))
    heads, features, values = coupling.groups
    removed = {heads.name: [1], features.name: [0, 5], values.name: [3]}
    done = cut(coupling, removed)
    proof = prove(coupling, done, removed)
    assert proof.passed, proof.what
    with torch.no_grad():
        done.module.out.weight.mul_(1 + 1e-6)
    assert not prove(coupling, done, removed).passed


def test_a_class_is_left_as_it_was() -> None:
    class Caching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)
            self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
            self.last: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            self.last = x
            return self.b(F.relu(self.a(x)))

    model = Caching().train()
    coupling = couple(model, torch.randn(2, 4))
    own = cut_in_place(copy.deepcopy(model), cut(coupling, {"a": [1]}).surgery)
    own.last = None
    weights = dict(own.named_parameters())
    assert prove(coupling, own, {"a": [1]}).passed
    assert own.last is None
    assert own.training
    assert all(parameter is weights[name] for name, parameter in own.named_parameters())
    with unchanged(own):
        own.calls.add_(1)
    assert int(own.calls) == 0


def test_what_is_written_to_a_buffer_is_read_again() -> None:
    class Filling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)
            self.register_buffer("store", torch.zeros(3))

        def forward(self, x: Tensor) -> Tensor:
            self.store.copy_(self.b.bias * 2)
            return self.b(F.relu(self.a(x))) + self.store

    model = Filling()
    coupling = couple(model, torch.randn(2, 4))
    own = cut_in_place(copy.deepcopy(model), cut(coupling, {"a": [1]}).surgery)
    assert prove(coupling, own, {"a": [1]}).passed
