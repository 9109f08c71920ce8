"""What a latency is made of: counts of a graph, by hand."""

import pytest
import torch
from torch import nn

from penjing.measuring.features import features
from penjing.structure import capture, couple


def counted(model: nn.Module, x: torch.Tensor) -> dict[str, float]:
    captured = capture(model, x)
    return features(captured.module.graph, captured.shapes)


def test_a_convolution_counts_its_products_with_filters_rounded_up_to_blocks() -> None:
    found = counted(nn.Conv2d(6, 10, 3, padding=1, bias=False), torch.zeros(2, 6, 5, 5))
    positions, per_filter = 2 * 25, 9 * 6
    assert found["convolution of few.macs/1"] * 1e6 == pytest.approx(positions * per_filter * 10)
    assert found["convolution of few.macs/4"] * 1e6 == pytest.approx(positions * per_filter * 12)
    assert found["convolution of few.macs/16"] * 1e6 == pytest.approx(positions * per_filter * 16)
    assert found["convolution of few.out_mb"] * 1e6 == pytest.approx(2 * 10 * 25 * 4)


@pytest.mark.parametrize(
    ("layer", "family"),
    [
        (nn.Conv2d(8, 24, 3), "convolution@8 of few"),
        (nn.Conv2d(32, 24, 3), "convolution@8"),
        (nn.Conv2d(16, 32, 1), "pointwise@16"),
        (nn.Conv2d(12, 12, 3, groups=12), "depthwise@4"),
        (nn.Conv2d(8, 8, 3, groups=2), "grouped@8"),
        (nn.Conv2d(17, 32, 3), "convolution"),
    ],
)
def test_families_know_kernels_groups_and_how_channels_align(layer: nn.Conv2d, family: str) -> None:
    found = counted(layer, torch.zeros(1, layer.in_channels, 5, 5))
    assert found[f"{family}.calls"] == 1


def test_what_runtimes_fold_away_counts_nothing() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    folded = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout())
    assert counted(plain, torch.zeros(1, 3, 5, 5)) == counted(folded, torch.zeros(1, 3, 5, 5))


def test_counts_of_a_cut_are_those_of_the_smaller_model() -> None:
    def network(width: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 5, 3), nn.Flatten(), nn.Linear(20, 4))

    x = torch.zeros(2, 3, 6, 6)
    coupling = couple(network(8), x)
    shapes = coupling.shapes_after({"0": [1, 4, 6]})
    assert features(coupling.captured.module.graph, shapes) == counted(network(5), x)


def test_attention_counts_scores_and_products() -> None:
    class Attention(nn.Module):
        def forward(self, q: torch.Tensor) -> torch.Tensor:
            return nn.functional.scaled_dot_product_attention(q, q, q)

    found = counted(Attention(), torch.zeros(2, 3, 7, 4))
    assert found["attention.macs"] * 1e6 == pytest.approx(2 * 3 * 7 * 7 * 8)
