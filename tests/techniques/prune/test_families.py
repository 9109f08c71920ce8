"""Every kind of unit is cut to the width that was asked for: one small model each, through the front door."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from penjing.recipe import PruneChannels
from penjing.techniques import apply


class Attention(nn.Module):
    """Four query heads of width 8 over `kv` key and value heads; values of another width, 6."""

    def __init__(self, kv: int = 4) -> None:
        super().__init__()
        self.kv = kv
        self.q, self.k, self.v = nn.Linear(5, 32), nn.Linear(5, 8 * kv), nn.Linear(5, 6 * kv)
        self.out = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (part(x).reshape(n, t, -1, d).transpose(1, 2) for part, d in ((self.q, 8), (self.k, 8), (self.v, 6)))
        if self.kv < 4:
            k, v = (z.repeat_interleave(4 // self.kv, 1) for z in (k, v))
        weights = (q @ k.transpose(2, 3) / 8**0.5).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(n, t, 24))


class Recurrent(nn.Module):
    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.cell, self.head = kind(5, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0])


class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm, self.head = nn.Embedding(11, 16), nn.LayerNorm(16), nn.Linear(16, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.table(tokens)))


def gated() -> nn.Module:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(5, 32), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.up(x).chunk(2, -1)
            return self.down(a * b.sigmoid())

    return Gated()


def separable() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 1)
    )


POSITIONS, IMAGE = (torch.randn(s, generator=torch.Generator().manual_seed(0)) for s in ((2, 7, 5), (2, 2, 8, 8)))
CASES = [
    (
        "convolution",
        lambda: nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)),
        IMAGE,
        "0",
        {"0.weight": 4},
    ),
    ("depthwise", separable, IMAGE, "0", {"0.weight": 4, "1.running_var": 4, "3.weight": 4}),
    ("neurons", lambda: nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3)), POSITIONS, "0", {"0.weight": 8}),
    ("gate", gated, POSITIONS, "up", {"up.weight": 16}),
    ("heads", Attention, POSITIONS, "q", {"q.weight": 16, "k.weight": 16, "v.weight": 12}),
    ("query width", Attention, POSITIONS, "q:2", {"q.weight": 16, "k.weight": 16}),
    ("value width", Attention, POSITIONS, "v", {"v.weight": 12}),
    ("grouped queries", lambda: Attention(2), POSITIONS, "q", {"q.weight": 16, "k.weight": 8, "v.weight": 6}),
    ("lstm", lambda: Recurrent(nn.LSTM), POSITIONS, "cell", {"cell.weight_ih_l0": 32, "cell.weight_hh_l0": 32}),
    ("gru", lambda: Recurrent(nn.GRU), POSITIONS, "cell", {"cell.weight_ih_l0": 24, "cell.weight_hh_l0": 24}),
]


@pytest.mark.parametrize(("kind", "make", "x", "group", "widths"), CASES, ids=[case[0] for case in CASES])
def test_half_of_a_kind_goes(
    kind: str, make: Callable[[], nn.Module], x: Tensor, group: str, widths: dict[str, int]
) -> None:
    torch.manual_seed(0)
    step = PruneChannels(0.5, groups=(group,), round_to=None)
    outcome = apply(make().eval(), step, x, prefer="graph")
    kept = outcome.surgery.kept
    assert {name: len(kept[name][0]) for name in widths} == widths
    assert outcome.model(torch.randn_like(x)).isfinite().all()
    assert any(row.proof and row.proof.startswith("proven in float64") for row in outcome.log)


def test_an_embedding_width_goes_where_inexact_cuts_are_allowed() -> None:
    tokens = torch.zeros(2, 7, dtype=torch.long)
    torch.manual_seed(0)
    model = Embedded().eval()
    outcome = apply(model, PruneChannels(0.5, round_to=None, allow_inexact=True), tokens)
    assert type(outcome.model) is Embedded
    assert outcome.model.table.weight.shape == (11, 8)
    assert outcome.model.norm.normalized_shape == (8,)
    assert outcome.model(tokens).isfinite().all()
    refused = apply(model, PruneChannels(0.5, round_to=None), tokens)
    assert any("allow_inexact=True cuts them" in row.what for row in refused.fallbacks)
