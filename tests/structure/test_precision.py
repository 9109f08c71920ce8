"""What torch has no float64 for is computed in float64 all the same."""

import copy

import pytest
import torch
from torch import Tensor, nn

from penjing.recipe import PruneChannels
from penjing.structure import couple, cut, cut_in_place, prove
from penjing.structure.precision import InDouble, grouped_product
from penjing.techniques import apply


@pytest.mark.parametrize(
    ("a", "b", "offs"),
    [((16, 8), (3, 8, 16), [4, 4, 13]), ((8, 16), (16, 24), [8, 16]), ((3, 8, 16), (16, 24), [8, 16, 24])],
)
def test_grouped_products_are_those_of_torch(a: tuple[int, ...], b: tuple[int, ...], offs: list[int]) -> None:
    torch.manual_seed(0)
    x, y, ends = torch.randn(a), torch.randn(b), torch.tensor(offs, dtype=torch.int32)
    expected = torch._grouped_mm(x.bfloat16(), y.bfloat16(), offs=ends)
    found = grouped_product(x.bfloat16(), y.bfloat16(), ends)
    if len(a) == 2 and len(b) == 3:
        expected, found = expected[: offs[-1]], found[: offs[-1]]
    torch.testing.assert_close(found, expected)
    with InDouble():
        torch.testing.assert_close(
            torch._grouped_mm(x.double(), y.double(), offs=ends), grouped_product(x.double(), y.double(), ends)
        )


class Spectral(nn.Module):
    """Complex weights on the spectrum of a signal, and a complex buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(6, 4, dtype=torch.complex64))
        self.out = nn.Parameter(torch.randn(3, 6, dtype=torch.complex64))
        self.register_buffer("phase", torch.polar(torch.ones(6), torch.rand(6)))

    def forward(self, x: Tensor) -> Tensor:
        return ((torch.fft.fft(x) @ self.mix.T * self.phase) @ self.out.T).abs()


def test_complex_weights_are_cut_and_proven_in_complex128() -> None:
    model = Spectral()
    coupling = couple(model, torch.randn(2, 4))
    (group,) = coupling.groups
    assert {(member.parameter, member.dim) for member in group.members} == {("mix", 0), ("phase", 0), ("out", 1)}
    done = cut(coupling, {"mix": [1, 4]})
    proof = prove(coupling, done, {"mix": [1, 4]})
    assert proof.passed, proof.what
    assert proof.max_relative_difference < 1e-12
    own = cut_in_place(copy.deepcopy(model), done.surgery)
    assert prove(coupling, own, {"mix": [1, 4]}).passed
    with torch.no_grad():
        own.out.mul_(1 + 1e-6)
    assert not prove(coupling, own, {"mix": [1, 4]}).passed


@pytest.mark.parametrize("score", ["l1", "l2", "geometric_median", "lamp"])
def test_scores_read_complex_weights(score: str) -> None:
    model = Spectral()
    with torch.no_grad():
        model.mix[2] *= 1e-3
        model.out[:, 2] *= 1e-3
    smaller = apply(model, PruneChannels(ratio=1 / 6, score=score, round_to=1), torch.randn(2, 4)).model
    with torch.no_grad():
        assert torch.equal(smaller.mix, model.mix[[0, 1, 3, 4, 5]])
