"""What a proof accepts, what it refuses, and what it leaves alone."""

import copy

import pytest
import torch
from structure_zoo import ZOO, Mlp, Vgg
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from penjing.structure import couple, cut, cut_in_place, prove


def test_nothing_is_changed() -> None:
    model, example = ZOO["mobilenet"]()
    model.train()
    coupling = couple(model, example)
    done = cut(coupling, {"expand.0": [0]})
    states = [copy.deepcopy(module.state_dict()) for module in (model, done.module)]
    torch.manual_seed(5)
    assert prove(coupling, done, {"expand.0": [0]}).passed
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))
    for module, state in zip((model, done.module), states, strict=True):
        for name, value in module.state_dict().items():
            assert torch.equal(value, state[name])
            assert value.dtype == state[name].dtype
    assert model.training


def test_a_zero_head_hides_nothing() -> None:
    """A head that is all zero makes every output equal; the proof must not be fooled."""
    model = Vgg()
    nn.init.zeros_(model.head[3].weight)
    nn.init.zeros_(model.head[3].bias)
    coupling = couple(model, torch.randn(2, 3, 8, 8))
    removed = {"features.0": [0]}
    done = cut(coupling, removed)
    assert prove(coupling, done, removed).passed
    with torch.no_grad():
        done.module.get_parameter("features.4.weight").mul_(1 + 1e-6)
    assert not prove(coupling, done, removed).passed


def test_a_tiny_mistake_in_single_precision_is_seen() -> None:
    model, example = ZOO["transformer"]()
    coupling = couple(model, example)
    removed = {"mlp.0": [0, 1]}
    wrong = copy.deepcopy(cut(coupling, removed).module)
    with torch.no_grad():
        wrong.get_parameter("attention.qkv.weight")[0, 0] += 1e-5
    proof = prove(coupling, wrong, removed)
    assert not proof.passed
    assert proof.max_relative_difference < 1e-4
    assert "differ by" in proof.describe()


def test_removing_the_wrong_units_is_seen() -> None:
    coupling = couple(Vgg(), torch.randn(2, 3, 8, 8))
    assert not prove(coupling, cut(coupling, {"features.0": [0]}), {"features.0": [1]}).passed


def test_the_uncut_model_is_no_proof() -> None:
    model = Vgg()
    coupling = couple(model, torch.randn(2, 3, 8, 8))
    proof = prove(coupling, model, {"features.0": [1]})
    assert not proof.passed


def test_a_model_that_cannot_run_fails_with_the_reason() -> None:
    model, example = ZOO["fused attention"]()
    coupling = couple(model, example)
    smaller = cut_in_place(copy.deepcopy(model), cut(coupling, {"q:2": [0]}).surgery)
    proof = prove(coupling, smaller, {"q:2": [0]})
    assert not proof.passed
    assert proof.max_relative_difference == float("inf")
    assert "does not run" in proof.what


def test_an_inexact_cut_is_checked_not_proven() -> None:
    coupling = couple(Mlp(), torch.randn(2, 6))
    proof = prove(coupling, cut(coupling, {"embed": [0, 5]}), {"embed": [0, 5]})
    assert proof.passed
    assert not proof.exact
    assert "checked against the restricted norm" in proof.describe()


def test_the_restricted_norm_is_not_the_masked_norm() -> None:
    """Cutting through a layer norm differs from masking: the two must not be confused."""
    model = Mlp().double()
    x = torch.randn(4, 6, dtype=torch.float64)
    coupling = couple(model, x)
    done = cut(coupling, {"embed": [0, 5]})
    masked = copy.deepcopy(model)
    with torch.no_grad():
        for member in coupling["embed"].members:
            parameter = masked.get_parameter(member.parameter)
            parameter.index_fill_(member.dim, torch.tensor([0, 5]), 0.0)
    assert not torch.allclose(masked.eval()(x), done.module.eval()(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_floats_are_proven_in_double(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 3)).to(dtype)
    coupling = couple(model, torch.randn(2, 4, dtype=dtype))
    done = cut(coupling, {"0": [1, 2]})
    assert prove(coupling, done, {"0": [1, 2]}).passed
    assert prove(coupling, cut_in_place(model, done.surgery), {"0": [1, 2]}).passed


class Casting(nn.Module):
    """Casts as models make them, by every spelling; `spelling` says which."""

    def __init__(self, spelling: str = "float") -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)
        self.spelling = spelling

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.a(x))
        match self.spelling:
            case "float":
                h = h.float()
            case "to":
                h = h.to(torch.float32).to(dtype=torch.float32)
            case "type":
                h = h.type(torch.float32)
            case "dtype of a sum":
                h = h * h.sum(-1, keepdim=True, dtype=torch.float32)
            case "dtype of a softmax":
                h = h * F.softmax(h[:, :1], dim=0, dtype=torch.float32)
            case "created":
                h = h * torch.linspace(0, 1, len(x), dtype=torch.float32)[:, None]
            case "created by default":
                h = h + F.linear(torch.zeros(len(x), 4), self.a.weight) + torch.full((len(x), 1), 0.1)
            case "a constant":
                h = h * torch.tensor(0.1) + (x @ torch.tensor([0.1, 0.2, 0.3, 0.4]))[:, None]
            case "short":
                h = h.bfloat16()
        return self.b(h.to(self.b.weight.dtype))


SPELLINGS = (
    "float",
    "to",
    "type",
    "dtype of a sum",
    "dtype of a softmax",
    "created",
    "created by default",
    "a constant",
    "short",
)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_casts_inside_the_model_do_not_spoil_the_precision(spelling: str) -> None:
    model = Casting(spelling)
    coupling = couple(model, torch.randn(2, 4))
    done = cut(coupling, {"a": [1, 2]})
    assert prove(coupling, done, {"a": [1, 2]}).passed
    assert prove(coupling, cut_in_place(copy.deepcopy(model), done.surgery), {"a": [1, 2]}).passed


def test_a_tiny_mistake_behind_a_cast_is_seen_in_place() -> None:
    model = Casting()
    coupling = couple(model, torch.randn(2, 4))
    wrong = cut_in_place(copy.deepcopy(model), cut(coupling, {"a": [1, 2]}).surgery)
    with torch.no_grad():
        wrong.b.weight.mul_(1 + 1e-6)
    assert not prove(coupling, wrong, {"a": [1, 2]}).passed


def test_a_normalisation_in_single_precision_keeps_its_class() -> None:
    """The common root mean square norm: computed in float32 whatever the input, and cast back."""

    class RMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6))

        def forward(self, x: Tensor) -> Tensor:
            y = x.float()
            y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6)
            return self.weight * y.type_as(x)

    model = nn.Sequential(nn.Linear(4, 6), RMSNorm(), nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, 2))
    coupling = couple(model, torch.randn(2, 4))
    done = cut(coupling, {"2": [0, 5]})
    proof = prove(coupling, cut_in_place(copy.deepcopy(model), done.surgery), {"2": [0, 5]})
    assert proof.passed
    assert proof.max_relative_difference < 1e-12


def test_the_value_of_a_mask_hides_no_difference() -> None:
    """Beside scores of -3e38, in which masked places end, every relative difference would be zero."""

    class Span(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 1)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.b(torch.tanh(self.a(x))).squeeze(-1) + (1 - mask) * torch.finfo(x.dtype).min

    mask = torch.tensor([[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    coupling = couple(Span(), (torch.randn(2, 4, 4), mask))
    done = cut(coupling, {"a": [1, 5]})
    proof = prove(coupling, done, {"a": [1, 5]})
    assert proof.passed, proof.what
    with torch.no_grad():
        done.module.get_parameter("b.weight").mul_(1 + 1e-6)
    assert not prove(coupling, done, {"a": [1, 5]}).passed
