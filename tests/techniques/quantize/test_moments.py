"""Moments of samples that come in parts are those of all of them; the windows of a convolution give its outputs."""

import pytest
import torch
from torch import Tensor, nn

from penjing.structure import capture
from penjing.techniques.quantize.graph import CONVOLUTIONS
from penjing.techniques.quantize.importance import Places
from penjing.techniques.quantize.moments import Moments, moments


def rows(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs far from zero, what is seen of them, and weights."""
    generator = torch.Generator().manual_seed(seed)
    x = 3 + torch.randn(2, count, 4, generator=generator)
    return x, x + 0.1 * torch.randn(2, count, 4, generator=generator), torch.rand(count, generator=generator)


def test_moments_of_parts_add_up_to_those_of_all() -> None:
    parts = [rows(count, seed) for seed, count in enumerate((1, 7, 30))]
    x, seen, places = (torch.cat(each, -2 if each[0].ndim > 1 else 0) for each in zip(*parts, strict=True))
    whole, (first, *others) = Moments.of(x, seen, places), [Moments.of(*part) for part in parts]
    added = first
    for each in others:
        added = added + each
    for mine, theirs in zip(
        (added.energy, added.lost, *added.means), (whole.energy, whole.lost, *whole.means), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-4)


def test_errors_differ_as_those_of_the_outputs_do() -> None:
    x, seen, places = rows(50, 0)
    about = (torch.full((2, 4), 2.5), torch.full((2, 4), 3.5))
    sums = Moments.of(x, seen, places).about(about)
    generator = torch.Generator().manual_seed(1)
    weight, *stored = (torch.randn(6, 4, generator=generator) for _ in range(3))

    def plain(real: Tensor) -> float:
        wanted, got = (
            (each - mean[:, None]) @ matrix.reshape(2, 3, 4).mT
            for each, mean, matrix in zip((x, seen), about, (weight, real), strict=True)
        )
        return float(((wanted - got).square().sum((0, 2)) * places).sum())

    found = [sums.error(weight, real) for real in stored]
    assert found[0] - found[1] == pytest.approx(plain(stored[0]) - plain(stored[1]), rel=1e-4)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (3, 4, 7, 8)),
        (nn.Conv2d(4, 4, (3, 2), padding="same", groups=4, dilation=2), (2, 4, 9, 5)),
        (nn.Conv1d(3, 5, 4, stride=3, padding=2, dilation=2), (2, 3, 20)),
        (nn.Conv3d(2, 3, 2, padding="valid"), (2, 2, 4, 3, 3)),
    ],
)
def test_windows_are_what_outputs_are_computed_from(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """With all places drawn, the mean of the outputs is the weight times the mean of the windows."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    graph = capture(nn.Sequential(layer).eval(), (x,)).module.graph
    (node,) = (node for node in graph.nodes if node.target in CONVOLUTIONS)
    outputs = layer(x).detach().movedim(1, -1).flatten(0, -2)
    places = Places(torch.arange(len(outputs)), torch.rand(len(outputs), generator=torch.Generator().manual_seed(1)))
    (mean, _) = sum_of(moments(node, [(x, x)], [places])).means
    weight, bias = (each.detach() for each in layer.parameters())
    made = (weight.flatten(1).reshape(len(mean), -1, mean.shape[1]) @ mean[:, :, None]).flatten() + bias
    torch.testing.assert_close(made, places.weights @ outputs / places.weights.sum(), rtol=1e-4, atol=1e-5)


def sum_of(both: tuple[Moments, Moments]) -> Moments:
    return both[0] + both[1]


def test_one_place_is_on_both_sides() -> None:
    node = next(n for n in capture(nn.Sequential(nn.Linear(3, 2)), (torch.ones(1, 3),)).module.graph.nodes if n.args)
    fitted, judged = moments(node, [(torch.ones(1, 3), torch.zeros(1, 3))], [Places(torch.tensor([0]), torch.ones(1))])
    assert fitted is judged
    assert fitted.means[0].tolist() == [[1.0, 1.0, 1.0]]
