"""Where a cut could go wrong unnoticed: memory that is shared, shapes that are computed, layouts that are fixed."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from penjing.structure import Coupling, couple, cut, prove


def proven(model: nn.Module, *example: Tensor, inexact: bool = True) -> Coupling:
    """Cut every third unit of every group, and believe it only after the proof; cut once more, and again."""
    torch.manual_seed(0)
    coupling = couple(model.eval(), example)
    current, captured = coupling, coupling.captured
    for _ in range(2):
        removed = {g.name: range(0, g.size - 1, 3) for g in current.groups if g.prunable and (inexact or g.exact)}
        done = cut(current, removed)
        proof = prove(current, done, removed)
        assert proof.passed, f"{proof.what}\n{captured.module.graph}\n{current.table()}"
        current = couple(done.captured)
    return coupling


def freed(coupling: Coupling) -> set[str]:
    """The dimensions of parameters of which units may go."""
    return {f"{m.parameter}[{m.dim}]" for group in coupling.groups if group.prunable for m in group.members}


class Rotary(nn.Module):
    """Complex rotation of the last part of each head, a strided piece of a larger tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.out = nn.Linear(6, 2 * (8 + 4)), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).view(*x.shape[:2], 2, 12)
        plain, turned = q.split([8, 4], -1)
        turn = torch.polar(torch.ones(x.shape[1], 1, 2), torch.arange(x.shape[1]).view(-1, 1, 1) / torch.arange(1, 3))
        turned = torch.view_as_real(torch.view_as_complex(turned.reshape(*turned.shape[:-1], -1, 2)) * turn).flatten(-2)
        return self.out(torch.cat([plain, turned], -1).flatten(2))


def test_a_complex_view_of_a_strided_piece_runs_at_odd_widths() -> None:
    assert "q.weight[0]" in freed(proven(Rotary(), torch.randn(2, 7, 6)))


class Chain(nn.Module):
    """Three layers; subclasses say what happens between the first and the second."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def between(self, y: Tensor) -> Tensor:
        return y

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.between(self.a(x))).relu())


class AddsToPart(Chain):
    def between(self, y: Tensor) -> Tensor:
        y[:, 2:6].add_(1.0)
        y[:, ::2].mul_(2.0)
        return y


class CopiesMirrored(Chain):
    def between(self, y: Tensor) -> Tensor:
        y.copy_(y.flip(-1))
        return y


class CopiesHalf(Chain):
    def between(self, y: Tensor) -> Tensor:
        y[:, :4] = y[:, 4:]
        return y


class GatesInPlace(Chain):
    def between(self, y: Tensor) -> Tensor:
        value, gate = y.chunk(2, -1)
        value.mul_(gate)
        return y


class WritesByMask(Chain):
    def between(self, y: Tensor) -> Tensor:
        y[y > 0] = 0.25
        return y


class Rolls(Chain):
    def between(self, y: Tensor) -> Tensor:
        return y.roll(3, -1).roll(-10, 1)


class FillsZeros(Chain):
    def between(self, y: Tensor) -> Tensor:
        both = torch.zeros(y.shape[0], 16)
        both[:, :8] = y
        both[:, 8:] = y.sin()
        return both.view(-1, 2, 8).sum(1)


class TakesWindows(Chain):
    def between(self, y: Tensor) -> Tensor:
        return y + y.unfold(1, 2, 2).flatten(1)


class WritesByIndex(Chain):
    def between(self, y: Tensor) -> Tensor:
        y[:, [1, 3]] = 0.5
        return y


class ReadsMemory(Chain):
    def between(self, y: Tensor) -> Tensor:
        torch.as_strided(y, (y.shape[0], 4), (8, 2)).add_(1.0)
        return y


class ChangesShapeInPlace(Chain):
    def between(self, y: Tensor) -> Tensor:
        y.unsqueeze_(1).add_(1.0)
        return y.squeeze_(1)


FREE = (AddsToPart, CopiesMirrored, CopiesHalf, GatesInPlace, WritesByMask, Rolls, FillsZeros)
KEPT = (TakesWindows, WritesByIndex, ReadsMemory, ChangesShapeInPlace)


@pytest.mark.parametrize("model", [*FREE, *KEPT], ids=lambda model: model.__name__)
def test_shared_memory_and_fixed_layouts_are_cut_rightly_or_kept(model: type[Chain]) -> None:
    free = freed(proven(model(), torch.randn(2, 6)))
    assert ("a.weight[0]" in free) == (model in FREE)
    assert "b.weight[0]" in free


def test_writing_through_a_view_ends_the_vanishing_of_its_base() -> None:
    """relu gives zero where a slice went, but not after ones are written into a part: the product is inexact."""

    class Product(nn.Module):
        def __init__(self, write: bool) -> None:
            super().__init__()
            self.a, self.b, self.write = nn.Linear(6, 8), nn.Linear(6, 8), write

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x).relu()
            if self.write:
                y[:, :4].fill_(1.0)
            return y @ self.b(x).sigmoid().transpose(0, 1)

    assert all(group.exact for group in couple(Product(False), torch.randn(5, 6)).groups)
    assert not any(group.exact for group in couple(Product(True), torch.randn(5, 6)).groups)


class Windows(nn.Module):
    """Shifted windows with a table of relative positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Conv2d(3, 12, 1), nn.LayerNorm(12)
        self.qkv, self.project, self.head = nn.Linear(12, 36), nn.Linear(12, 12), nn.Linear(12, 3)
        self.table = nn.Parameter(torch.randn(49, 3))
        self.register_buffer("index", torch.randint(49, (16 * 16,)))

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x).permute(0, 2, 3, 1)
        b, h, w, c = y.shape
        y = torch.roll(self.norm(y), (-2, -2), (1, 2)).view(b, h // 4, 4, w // 4, 4, c)
        q, k, v = (
            self.qkv(y.transpose(2, 3).flatten(3, 4).flatten(0, 2)).reshape(-1, 16, 3, 3, 4).permute(2, 0, 3, 1, 4)
        )
        scores = (q * 0.5) @ k.transpose(-1, -2) + self.table[self.index].view(16, 16, -1).permute(2, 0, 1).contiguous()
        y = self.project((scores.softmax(-1) @ v).transpose(1, 2).reshape(-1, 16, 12))
        y = y.view(b, h // 4, w // 4, 4, 4, c).transpose(2, 3).reshape(b, h, w, c).roll((2, 2), (1, 2))
        return self.head(y.mean((1, 2)))


def test_heads_take_their_column_of_a_table_of_relative_positions() -> None:
    coupling = proven(Windows(), torch.randn(2, 3, 8, 8))
    heads = next(g for g in coupling.groups if any(m.parameter == "table" and m.dim == 1 for m in g.members))
    assert {"qkv.weight", "project.weight", "table"} <= {member.parameter for member in heads.members}


class RotaryPairs(nn.Module):
    """Rotary embeddings, halves or neighbours turned against each other; keys serve two heads each."""

    def __init__(self, neighbours: bool) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.register_buffer("frequency", 0.3 ** torch.arange(3))
        self.q, self.k, self.v, self.o = nn.Linear(6, 24), nn.Linear(6, 12), nn.Linear(6, 12), nn.Linear(24, 3)

    def turned(self, t: Tensor) -> Tensor:
        angle = torch.outer(torch.arange(t.shape[-2]), self.frequency)
        if self.neighbours:
            a, b = t[..., ::2], t[..., 1::2]
            return torch.stack([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1).flatten(-2)
        half = t.shape[-1] // 2
        angle = torch.cat([angle, angle], -1)
        return t * angle.cos() + torch.cat([-t[..., half:], t[..., :half]], -1) * angle.sin()

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (layer(x).view(b, n, -1, 6).transpose(1, 2) for layer in (self.q, self.k, self.v))
        k, v = (t[:, :, None].expand(b, 2, 2, n, 6).reshape(b, 4, n, 6) for t in (self.turned(k), v))
        y = F.scaled_dot_product_attention(self.turned(q), k, v, is_causal=True)
        return self.o(y.transpose(1, 2).reshape(b, n, -1))


@pytest.mark.parametrize("neighbours", [False, True])
def test_rotary_widths_go_in_pairs(neighbours: bool) -> None:
    coupling = proven(RotaryPairs(neighbours), torch.randn(2, 7, 6))
    pairs = next(
        g
        for g in coupling.groups
        if g.size == 3 and {"q.weight", "k.weight", "frequency"} <= {m.parameter for m in g.members}
    )
    first = next(m for m in pairs.members if m.parameter == "k.weight").index[0]
    assert first.tolist() == ([0, 1, 6, 7] if neighbours else [0, 3, 6, 9])


class Cells(nn.Module):
    """Recurrent cells unrolled, and gates written by hand: a layer's outputs in four chunks."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.gru, self.lstm = nn.Linear(5, 6), nn.GRUCell(6, 8), nn.LSTMCell(8, 8)
        self.x, self.h, self.o = nn.Linear(8, 28), nn.Linear(7, 28), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        g, h, c = (x.new_zeros(x.shape[0], 8) for _ in range(3))
        y = s = x.new_zeros(x.shape[0], 7)
        for t in range(2):
            g = self.gru(self.e(x[:, t]).relu(), g)
            h, c = self.lstm(g, (h, c))
            i, f, z, o = (self.x(h) + self.h(y)).chunk(4, 1)
            s = f.sigmoid() * s + i.sigmoid() * z.tanh()
            y = o.sigmoid() * s.tanh()
        return self.o(y)


def test_a_unit_of_a_cell_owns_a_row_of_every_gate() -> None:
    coupling = proven(Cells(), torch.randn(2, 3, 5))
    shapes = {(m.parameter, m.dim): m.index.shape for group in coupling.groups for m in group.members}
    assert shapes["gru.weight_hh", 0] == (8, 3)
    assert shapes["lstm.weight_hh", 0] == (8, 4)
    assert shapes["h.weight", 0] == (7, 4)
    assert shapes["h.weight", 1] == (7, 1)


class Factored(nn.Module):
    """One width as 4 x 6 and as 3 x 8; then batch, positions and channels in one view of computed sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 24), nn.Linear(24, 24), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).view(x.size(0), -1, 4, 6).softmax(2).flatten(2)
        y = self.b(y).view(x.size(0), -1, 3, 8).transpose(2, 3).flatten(2)
        y = y.reshape(x.size(0) * y.size(1), y.size(2) // 12, 12)
        return self.c(y).view(x.size(0), -1, 3)


def test_factorings_that_cross_each_other_stay_right() -> None:
    assert "a.weight[0]" in freed(proven(Factored(), torch.randn(2, 4, 5)))


class Flexible(nn.Module):
    """torch's flex_attention with a bias by distance, or by head."""

    def __init__(self, by_head: bool) -> None:
        super().__init__()
        self.by_head = by_head
        self.q, self.k, self.v, self.o = nn.Linear(6, 12), nn.Linear(6, 12), nn.Linear(6, 15), nn.Linear(15, 2)

    def forward(self, x: Tensor) -> Tensor:
        from torch.nn.attention.flex_attention import flex_attention

        def score(value: Tensor, batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return value + (i - j) * (head + 1 if self.by_head else 0.1)

        q, k, v = (layer(x).unflatten(-1, (3, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.o(flex_attention(q, k, v, score_mod=score).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("by_head", [False, True])
def test_heads_of_flex_attention_go_unless_the_scores_read_their_number(by_head: bool) -> None:
    coupling = proven(Flexible(by_head), torch.randn(2, 7, 6))
    assert sorted(group.size for group in coupling.groups) == ([4, 5] if by_head else [3, 4, 5])


def test_a_choice_by_value_is_kept_with_a_sentence() -> None:
    class Choice(Chain):
        def between(self, y: Tensor) -> Tensor:
            return torch.cond(y.sum() > 0, lambda t: t.sin(), lambda t: t.cos(), (y,))

    coupling = proven(Choice(), torch.randn(2, 6))
    assert freed(coupling) == {"b.weight[0]", "b.bias[0]", "c.weight[1]"}
    assert not coupling.unknown
    reasons = {row.parameter: row.reason for row in coupling.frozen}
    assert reasons["a.bias"].startswith("it enters cond: this operator takes a choice by a value")


def test_another_precision_is_kept_with_a_sentence() -> None:
    class Mixed(Chain):
        def between(self, y: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                y = self.b(y)
            return y.float()

    coupling = couple(Mixed(), torch.randn(2, 6))
    reasons = {row.parameter: row.reason for row in coupling.frozen}
    assert "computes its body in another precision" in reasons["a.bias"]


class Modulated(nn.Module):
    """A convolution whose weights depend on the sample: the batch becomes groups of one large convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.style, self.stem, self.head = nn.Linear(5, 6), nn.Conv2d(3, 6, 1), nn.Conv2d(8, 3, 1)
        self.weight = nn.Parameter(torch.randn(8, 6, 3, 3))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        b, _, h, w = x.shape
        weight = self.weight * self.style(z)[:, None, :, None, None]
        y = F.conv2d(self.stem(x).reshape(1, -1, h, w), weight.reshape(-1, 6, 3, 3), padding=1, groups=b)
        return self.head(y.view(b, 8, h, w).relu())


def test_channels_go_where_the_batch_is_a_number_of_groups() -> None:
    free = freed(proven(Modulated(), torch.randn(2, 3, 5, 5), torch.randn(2, 5)))
    assert {"weight[0]", "weight[1]", "style.weight[0]", "stem.weight[0]"} <= free


def test_padded_channels_are_cut_with_the_residual_stream() -> None:
    class OptionA(nn.Module):
        """The shortcut of the first residual networks: every second position, and zeros for the new channels."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, 2, 1), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).relu()
            y = self.a(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
            return self.b(y.relu().mean((2, 3)))

    assert {"stem.weight[0]", "a.weight[0]"} <= freed(proven(OptionA(), torch.randn(2, 3, 6, 6)))
