"""Under eager_safe, code that nobody rewrites still computes the right thing after a cut."""

import pytest
import torch
from torch import Tensor, nn

from penjing.structure import Coupling, couple, cut, cut_in_place, prove


class Halves(nn.Module):
    """A gate by chunk, and one by slices up to half of the size."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(3, 12), nn.Linear(6, 8), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.first(x).chunk(2, -1)
        y = self.second(gate.sigmoid() * value)
        half = y.shape[-1] // 2
        return self.last(y[..., :half].tanh() * y[..., half:])


class Heads(nn.Module):
    """Attention whose code knows the width of a head and reads their number off the tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(6, 3 * 4 * 5), nn.Linear(20, 6)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, -1, 5).permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-1, -2) * 5**-0.5).softmax(-1)
        return self.out((attention @ v).transpose(1, 2).flatten(2))


class Places(nn.Module):
    """Fixed pieces, a fixed slice, a fixed index, a fixed shift."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(3, 8), nn.Linear(3, 8), nn.Linear(3, 8), nn.Linear(3, 8)
        self.out = nn.Linear(2 + 3 + 8 + 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        piece, _ = self.a(x).split([2, 6], -1)
        return self.out(torch.cat([piece, self.b(x)[:, 3:6], self.c(x).roll(3, -1), self.d(x)[:, 5:6]], -1))


def removed(coupling: Coupling) -> dict[str, list[int]]:
    return {group.name: [0] for group in coupling.groups if group.prunable}


@pytest.mark.parametrize("model", [Halves, Heads])
def test_the_class_survives_a_cut_that_the_constraint_allows(model: type[nn.Module]) -> None:
    torch.manual_seed(0)
    original, example = model(), torch.randn(2, 7, 6 if model is Heads else 3)
    coupling = couple(original, example, eager_safe=True)
    choice = removed(coupling)
    assert choice
    done = cut(coupling, choice)
    assert prove(coupling, done, choice).passed
    own = cut_in_place(original, done.surgery)
    assert prove(coupling, own, choice).passed


def test_without_it_the_halves_are_free_of_each_other() -> None:
    model, example = Halves(), torch.randn(2, 3)
    free, safe = couple(model, example), couple(model, example, eager_safe=True)
    assert len(safe.groups[0].members[0].index[0]) == 2
    assert [group.size for group in safe.groups] == [6, 4]
    assert free.groups[0].size == 6


def test_heads_go_whole() -> None:
    coupling = couple(Heads(), torch.randn(2, 7, 6), eager_safe=True)
    assert [group.size for group in coupling.groups] == [4]
    assert {(m.parameter, m.dim): m.index.shape for m in coupling.groups[0].members} == {
        ("qkv.weight", 0): (4, 15),
        ("qkv.bias", 0): (4, 15),
        ("out.weight", 1): (4, 5),
    }
    assert len(couple(Heads(), torch.randn(2, 7, 6)).groups) > 1


def test_fixed_places_are_kept_with_a_reason() -> None:
    coupling = couple(Places(), torch.randn(2, 3), eager_safe=True)
    reasons = {row.parameter: row.reason for row in coupling.frozen if row.dim == 0}
    assert "expects pieces of fixed sizes" in reasons["a.weight"]
    assert "expects to slice it at fixed places" in reasons["b.weight"]
    assert "expects to roll it by a fixed number" in reasons["c.weight"]
    assert couple(Places(), torch.randn(2, 3)).groups
