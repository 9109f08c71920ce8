"""What the walk over a graph costs and survives."""

import sys
from types import FrameType

import pytest
import torch
from torch import Tensor, nn

from penjing.structure import capture, couple, cut, prove, register_rule
from penjing.structure.labelling import label_graph
from penjing.structure.rules import Ruling, Site


class Attention(nn.Module):
    """Heads by packed views, a norm, a residual: every kind of label."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm(x)).view(b, n, 3, 4, c // 4).permute(2, 0, 3, 1, 4)
        return x + self.out(((q @ k.transpose(-1, -2)).softmax(-1) @ v).transpose(1, 2).flatten(2))


def calls(depth: int, width: int) -> int:
    """How many Python functions labelling enters."""
    captured = capture(nn.Sequential(*(Attention(width) for _ in range(depth))), torch.randn(2, 5, width))
    count = 0

    def enter(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(enter)
    try:
        label_graph(captured)
    finally:
        sys.setprofile(None)
    return count


def test_cost_is_linear_in_nodes_and_no_loop_runs_over_channels() -> None:
    base = calls(3, 16)
    assert calls(6, 16) < 2.2 * base
    assert calls(3, 256) < 1.1 * base


@torch.library.custom_op("penjing_test::odd", mutates_args=())
def odd(x: Tensor) -> Tensor:
    return x.clone()


@odd.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 6), nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(torch.ops.penjing_test.odd(self.a(x))))


@pytest.mark.parametrize("problem", [RuntimeError("no"), ZeroDivisionError(), NotImplementedError()])
def test_a_rule_that_fails_keeps_its_operator_and_is_reported(problem: Exception) -> None:
    def failing(site: Site) -> Ruling:
        raise problem

    register_rule("penjing_test::odd", failing)
    coupling = couple(Odd(), torch.randn(2, 3))
    assert [group.name for group in coupling.groups] == ["b"]
    assert type(problem).__name__ in coupling.unknown["penjing_test::odd"]


def test_a_result_whose_size_depends_on_values_is_cut_along_its_other_dimensions() -> None:
    class Selected(Odd):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            y = self.a(x)
            picked = y[y[:, 0] > 0]
            return self.c(self.b(y)), picked.sum(0) @ self.b.weight.T

    torch.manual_seed(0)
    coupling = couple(Selected(), torch.randn(4, 3))
    assert not coupling.unknown
    group = coupling["a"]
    assert group.size == 5, "all but the channel that rows are chosen by"
    reasons = {row.parameter: row.reason for row in coupling.frozen}
    assert "a single index is taken in select" in reasons["a.bias"]
    removed = {"a": [0, 3]}
    assert prove(coupling, cut(coupling, removed), removed).passed
