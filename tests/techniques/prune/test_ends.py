"""Where units begin and end: in networks with branches, heads, packed projections, gates and recurrence."""

import torch
from torch import Tensor, nn

from penjing.structure import couple
from penjing.techniques.prune.ends import Birth, births_of, ends_of, touched_by


class Attention(nn.Module):
    """Two heads of width 3 from one packed projection."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(4, 18), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, 2, 3).permute(2, 0, 3, 1, 4).unbind(0)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(n, t, 6))


def test_a_residual_stream_ends_at_each_reader_and_begins_at_each_writer() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.b, self.head = (nn.Linear(*s) for s in ((3, 4), (4, 6), (6, 4), (4, 2)))

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.head(x + self.b(self.a(x).relu()))

    coupling = couple(Residual(), torch.zeros(2, 3))
    stream, inner = coupling.groups
    assert [(end.source, end.reader) for end in ends_of(coupling, [stream])] == [
        ("linear", "linear_1"),
        ("add", "linear_3"),
    ]
    assert births_of(coupling, [stream]) == (Birth("linear", 0, 1), Birth("linear_2", 0, 1))
    assert births_of(coupling, [inner]) == (Birth("linear_1", 0, 1),)
    assert "linear_1" in touched_by(coupling, [inner])
    assert "linear_3" not in touched_by(coupling, [inner])


def test_heads_and_their_width_end_at_the_output_projection() -> None:
    coupling = couple(Attention(), torch.zeros(2, 5, 4))
    heads, width = coupling.groups
    (end,) = ends_of(coupling, [heads])
    assert end.reader == "linear_1"
    assert end.units.tolist() == [0, 0, 0, 1, 1, 1]
    (end,) = ends_of(coupling, [width])
    assert (end.reader, end.units.tolist()) == ("linear_1", [0, 1, 2, 0, 1, 2])
    assert {birth.layer for birth in births_of(coupling, [heads, width])} == {"linear"}


def test_the_width_of_queries_ends_where_they_meet_the_keys() -> None:
    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.out = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.q(x) @ self.k(x).transpose(1, 2))

    coupling = couple(Scores(), torch.zeros(2, 5, 4))
    (group,) = coupling.groups
    assert [(end.source, end.reader) for end in ends_of(coupling, [group])] == [
        ("linear", "matmul"),
        ("transpose", "matmul"),
    ]
    assert births_of(coupling, [group]) == (Birth("linear", 0, 2), Birth("linear_1", 0, 2))


def test_flattened_channels_end_with_all_their_positions() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    coupling = couple(model, torch.zeros(2, 1, 4, 4))
    (end,) = ends_of(coupling, coupling.groups)
    assert end.units.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_the_halves_of_a_gate_end_together() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(3, 8), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.up(x).chunk(2, -1)
            return self.down(a * b.sigmoid())

    coupling = couple(Gated(), torch.zeros(2, 3))
    (end,) = ends_of(coupling, coupling.groups)
    assert (end.reader, end.units.tolist()) == ("linear_1", [0, 1, 2, 3])
    assert births_of(coupling, coupling.groups) == (Birth("linear", 0, 1),)


def test_a_recurrent_cell_reads_its_inputs_and_gives_out_hidden_units() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.cell, self.head = nn.Embedding(9, 6), nn.LSTM(6, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.cell(self.table(tokens))[0])

    coupling = couple(Recurrent(), torch.zeros(2, 5, dtype=torch.long))
    table, hidden = coupling.groups
    (end,) = ends_of(coupling, [table])
    assert (end.source, end.reader, end.units.tolist()) == ("embedding", "lstm", [0, 1, 2, 3, 4, 5])
    (end,) = ends_of(coupling, [hidden])
    assert (end.reader, end.units.tolist()) == ("linear", [0, 1, 2, 3])
    assert births_of(coupling, [table, hidden]) == (Birth("embedding", 0, 2), Birth("lstm", 0, 2))
