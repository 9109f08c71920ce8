"""Small models of sequences in plain torch: recurrent, convolutional, attention and state-space ones."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from benchmarks.zoo import Entry, image, normal, tokens


class Recurrent(nn.Module):
    """Tokens, two recurrent layers, the last step."""

    def __init__(self, kind: type[nn.RNNBase], **options: bool) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(50, 16), kind(16, 24, 2, batch_first=True, **options)
        self.head = nn.Linear(48 if options.get("bidirectional") else 24, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(x))[0][:, -1])


class Cells(nn.Module):
    """A cell called in a loop."""

    def __init__(self, kind: type[nn.RNNCellBase]) -> None:
        super().__init__()
        self.embed, self.cell, self.head = nn.Linear(5, 12), kind(12, 20), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.embed(x))
        state, outputs = None, []
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
            outputs.append(self.head(state[0] if isinstance(state, tuple) else state))
        return torch.stack(outputs, 1)


class OwnGru(nn.Module):
    """A gated cell written by hand, its gates in one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.gates, self.candidate, self.head = nn.Linear(21, 32), nn.Linear(21, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], 16)
        for t in range(x.shape[1]):
            update, reset = self.gates(torch.cat([x[:, t], h], -1)).sigmoid().chunk(2, -1)
            h = (1 - update) * h + update * torch.tanh(self.candidate(torch.cat([x[:, t], reset * h], -1)))
        return self.head(h)


class Filter(nn.Module):
    """A linear state-space filter whose gain is learned: predict, correct (after Kalman 1960)."""

    def __init__(self) -> None:
        super().__init__()
        self.transition = nn.Parameter(torch.eye(12) * 0.9 + 0.05 * torch.randn(12, 12))
        self.observation, self.gain, self.head = nn.Linear(12, 4), nn.Linear(4, 12), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        state, outputs = x.new_zeros(x.shape[0], 12), []
        for observed in x.unbind(1):
            state = state @ self.transition.t()
            state = state + self.gain(observed - self.observation(state))
            outputs.append(self.head(state))
        return torch.stack(outputs, dim=1)


class SequenceToSequence(nn.Module):
    """A recurrent encoder and decoder with additive attention between them (arXiv:1409.0473)."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(40, 12), nn.Embedding(30, 12)
        self.encoder, self.decoder = nn.GRU(12, 16, batch_first=True), nn.GRU(12, 16, batch_first=True)
        self.query, self.key, self.score = nn.Linear(16, 10), nn.Linear(16, 10), nn.Linear(10, 1)
        self.head = nn.Linear(32, 30)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, state = self.encoder(self.source(source))
        out, _ = self.decoder(self.target(target), state)
        scores = self.score(torch.tanh(self.query(out)[:, :, None] + self.key(memory)[:, None])).squeeze(-1)
        return self.head(torch.cat([out, scores.softmax(-1) @ memory], -1))


class Crnn(nn.Module):
    """Convolutions make columns, a recurrent layer reads them (Shi et al. 2015, arXiv:1507.05717)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 12, 3, padding=1)
        )
        self.rnn, self.head = nn.LSTM(12 * 8, 16, bidirectional=True, batch_first=True), nn.Linear(32, 11)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        n, c, h, w = x.shape
        return self.head(self.rnn(x.permute(0, 3, 1, 2).reshape(n, w, c * h))[0]).log_softmax(-1)


class WaveNet(nn.Module):
    """Dilated gated convolutions with residual and skip paths (van den Oord et al. 2016, arXiv:1609.03499)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(4, 16, 1)
        self.dilated = nn.ModuleList(nn.Conv1d(16, 24, 2, dilation=2**i) for i in range(3))
        self.residual = nn.ModuleList(nn.Conv1d(12, 16, 1) for _ in range(3))
        self.skip = nn.ModuleList(nn.Conv1d(12, 20, 1) for _ in range(3))
        self.last, self.head = nn.Conv1d(20, 14, 1), nn.Conv1d(14, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.first(x), 0
        for i in range(3):
            y = self.dilated[i](F.pad(x, (2**i, 0)))
            y = torch.tanh(y[:, :12]) * torch.sigmoid(y[:, 12:])
            total = total + self.skip[i](y)
            x = x + self.residual[i](y)
        return self.head(F.relu(self.last(F.relu(total))))


class TemporalConvolutions(nn.Module):
    """Causal blocks under the older weight_norm; the future is chopped off (TCN, arXiv:1803.01271)."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.utils.parametrizations.weight_norm(nn.Conv1d(i, 16, 3, padding=2 * 2**k, dilation=2**k))
            for k, i in enumerate((4, 16))
        )
        self.shortcut, self.head = nn.Conv1d(4, 16, 1), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for k, layer in enumerate(self.convs):
            y = F.relu(layer(y)[..., : -2 * 2**k])
        return self.head(F.relu(y + self.shortcut(x))[:, :, -1])


class ConvTasNet(nn.Module):
    """Learned filters, a separator that masks them, and back to sound (Luo and Mesgarani 2018, arXiv:1809.07454)."""

    def __init__(self, sources: int = 2) -> None:
        super().__init__()
        self.sources = sources
        self.encoder, self.decoder = nn.Conv1d(1, 24, 8, 4, bias=False), nn.ConvTranspose1d(24, 1, 8, 4, bias=False)
        self.norm, self.narrow = nn.GroupNorm(1, 24), nn.Conv1d(24, 16, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(16, 32, 1),
                nn.PReLU(),
                nn.GroupNorm(1, 32),
                nn.Conv1d(32, 32, 3, padding=2**i, dilation=2**i, groups=32),
                nn.PReLU(),
                nn.Conv1d(32, 16, 1),
            )
            for i in range(2)
        )
        self.mask = nn.Conv1d(16, 24 * sources, 1)

    def forward(self, sound: Tensor) -> Tensor:
        mixture = F.relu(self.encoder(sound))
        x = self.narrow(self.norm(mixture))
        for block in self.blocks:
            x = x + block(x)
        masks = self.mask(x).view(x.shape[0], self.sources, 24, -1).sigmoid()
        parts = (mixture.unsqueeze(1) * masks).flatten(0, 1)
        return self.decoder(parts).view(sound.shape[0], self.sources, -1)


class Gated(nn.Module):
    """Gated linear units over sequences, by glu and by chunk."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = (
            nn.Conv1d(8, 40, 3, padding=1),
            nn.Conv1d(20, 48, 3, padding=1),
            nn.Conv1d(24, 4, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.second(F.glu(self.first(x), 1)).chunk(2, 1)
        return self.head(value * torch.sigmoid(gate))


class EncoderDecoder(nn.Module):
    """torch's own Transformer with a causal mask."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(40, 24), nn.Embedding(30, 24)
        self.transformer = nn.Transformer(24, 3, 2, 2, 48, batch_first=True)
        self.head = nn.Linear(24, 30)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.head(self.transformer(self.source(source), self.target(target), tgt_mask=mask, tgt_is_causal=True))


class Encoder(nn.Module):
    """torch's own encoder layers, pre-norm, with padding masked."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(24, 4, 40, batch_first=True, norm_first=True, activation="gelu")
        self.embed = nn.Embedding(40, 24, padding_idx=0)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x), src_key_padding_mask=x == 0)[:, 0])


class CrossAttention(nn.Module):
    """MultiheadAttention whose keys and values have widths of their own; its weights are an output."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, kdim=10, vdim=10, batch_first=True)
        self.query, self.memory = nn.Linear(6, 16), nn.Linear(7, 10)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 3)

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        x, memory = self.query(x), self.memory(memory)
        y, weights = self.attention(x, memory, memory)
        return self.head(self.norm(x + y)), weights


class Rotary(nn.Module):
    """A decoder with rotary positions, grouped queries, RMS norm and SwiGLU, its head tied to the embedding."""

    def __init__(self, width: int = 24, heads: int = 4, shared: int = 2) -> None:
        super().__init__()
        self.heads, self.shared, self.size = heads, shared, width // heads
        self.embed = nn.Embedding(40, width)
        self.q, self.kv = nn.Linear(width, width, bias=False), nn.Linear(width, 2 * shared * self.size, bias=False)
        self.out, self.norm1, self.norm2 = nn.Linear(width, width, bias=False), nn.RMSNorm(width), nn.RMSNorm(width)
        self.gate, self.up, self.down = nn.Linear(width, 40), nn.Linear(width, 40), nn.Linear(40, width)
        self.head = nn.Linear(width, 40, bias=False)
        self.head.weight = self.embed.weight
        angles = torch.outer(torch.arange(32.0), 10000.0 ** (-torch.arange(self.size // 2) / (self.size // 2)))
        self.register_buffer("angles", angles, persistent=False)

    def rotate(self, x: Tensor) -> Tensor:
        angles = self.angles[: x.shape[-2]]
        a, b = x.chunk(2, -1)
        return torch.cat([a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()], -1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        n, t, c = x.shape
        y = self.norm1(x)
        q = self.q(y).view(n, t, self.heads, self.size).transpose(1, 2)
        k, v = self.kv(y).view(n, t, 2, self.shared, self.size).permute(2, 0, 3, 1, 4).unbind(0)
        k, v = (part.repeat_interleave(self.heads // self.shared, 1) for part in (k, v))
        y = F.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(n, t, c))
        y = self.norm2(x)
        return self.head(x + self.down(F.silu(self.gate(y)) * self.up(y)))


class Performer(nn.Module):
    """Linear attention: feature maps of queries and keys, no softmax (arXiv:2006.16236)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.out = nn.Linear(5, 24), nn.Linear(24, 72), nn.Linear(24, 24)
        self.head = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        q, k, v = (part.unflatten(-1, (3, 8)) for part in self.qkv(x).chunk(3, -1))
        q, k = F.elu(q) + 1, F.elu(k) + 1
        memory = torch.einsum("nthd,nthe->nhde", k, v)
        total = torch.einsum("nthd,nhd->nth", q, k.sum(1))
        y = torch.einsum("nthd,nhde->nthe", q, memory) / total[..., None]
        return self.head(x + self.out(y.flatten(2)))


class StateSpace(nn.Module):
    """A diagonal state-space layer with gate and short convolution, its scan a loop (Mamba, arXiv:2312.00752)."""

    def __init__(self, width: int = 16, inner: int = 24, state: int = 4) -> None:
        super().__init__()
        self.embed, self.norm, self.split = nn.Linear(5, width), nn.LayerNorm(width), nn.Linear(width, 2 * inner)
        self.conv = nn.Conv1d(inner, inner, 3, padding=2, groups=inner)
        self.project, self.step = nn.Linear(inner, 2 * state + 3), nn.Linear(3, inner)
        self.log_decay, self.through = nn.Parameter(torch.randn(inner, state)), nn.Parameter(torch.randn(inner))
        self.out, self.head = nn.Linear(inner, width), nn.Linear(width, 3)
        self.state = state

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        u, gate = self.split(self.norm(x)).chunk(2, -1)
        u = F.silu(self.conv(u.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        into, outof, step = self.project(u).split([self.state, self.state, 3], -1)
        step = F.softplus(self.step(step))
        decay = torch.exp(step[..., None] * -torch.exp(self.log_decay))
        h, outputs = torch.zeros_like(decay[:, 0]), []
        for t in range(x.shape[1]):
            h = decay[:, t] * h + (step[:, t] * u[:, t])[..., None] * into[:, t, None]
            outputs.append((h * outof[:, t, None]).sum(-1))
        y = torch.stack(outputs, 1) + self.through * u
        return self.head(x + self.out(y * F.silu(gate)))


class RelativePositions(nn.Module):
    """Attention biased by a table of relative distances, as a gather of indices."""

    def __init__(self, width: int = 24, heads: int = 3, length: int = 8) -> None:
        super().__init__()
        self.heads = heads
        self.embed, self.table = nn.Linear(5, width), nn.Embedding(2 * length - 1, heads)
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out, self.norm, self.head = nn.Linear(width, width), nn.LayerNorm(width), nn.Linear(width, 2)
        place = torch.arange(length)
        self.register_buffer("distance", place[:, None] - place[None] + length - 1)

    def split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(q.shape[-1])
        scores = scores + self.table(self.distance).permute(2, 0, 1)
        y = torch.matmul(F.softmax(scores, dim=-1), v).transpose(1, 2).contiguous().flatten(-2)
        return self.head(self.norm(x + self.out(y)))


class Forecast(nn.Module):
    """Blocks that explain part of the past and forecast part of the future (N-BEATS, arXiv:1905.10437)."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 16))
            for _ in range(3)
        )

    def forward(self, past: Tensor) -> Tensor:
        future = past.new_zeros(past.shape[0], 4)
        for block in self.blocks:
            theta = block(past)
            past, future = past - theta[:, :12], future + theta[:, 12:]
        return future


ENTRIES = (
    Entry("plain/lstm", "sequence", lambda: Recurrent(nn.LSTM), tokens(50, 2, 7)),
    Entry("plain/gru", "sequence", lambda: Recurrent(nn.GRU), tokens(50, 2, 7)),
    Entry("plain/rnn", "sequence", lambda: Recurrent(nn.RNN), tokens(50, 2, 7)),
    Entry("plain/bidirectional-lstm", "sequence", lambda: Recurrent(nn.LSTM, bidirectional=True), tokens(50, 2, 7)),
    Entry("plain/bidirectional-gru", "sequence", lambda: Recurrent(nn.GRU, bidirectional=True), tokens(50, 2, 7)),
    Entry("plain/lstm-cells", "sequence", lambda: Cells(nn.LSTMCell), normal(2, 4, 5)),
    Entry("plain/gru-cells", "sequence", lambda: Cells(nn.GRUCell), normal(2, 4, 5)),
    Entry("plain/own-gru", "sequence", OwnGru, normal(2, 4, 5)),
    Entry("plain/filter", "sequence", Filter, normal(2, 5, 4)),
    Entry(
        "plain/sequence-to-sequence",
        "sequence",
        SequenceToSequence,
        lambda: (torch.randint(40, (2, 7)), torch.randint(30, (2, 5))),
    ),
    Entry("plain/crnn", "sequence", Crnn, image(16, channels=1)),
    Entry("plain/wavenet", "sequence", WaveNet, normal(2, 4, 20)),
    Entry("plain/temporal-convolutions", "sequence", TemporalConvolutions, normal(2, 4, 20)),
    Entry("plain/conv-tasnet", "sequence", ConvTasNet, normal(2, 1, 64)),
    Entry("plain/gated", "sequence", Gated, normal(2, 8, 20)),
    Entry(
        "plain/transformer",
        "sequence",
        EncoderDecoder,
        lambda: (torch.randint(40, (2, 7)), torch.randint(30, (2, 5))),
    ),
    Entry("plain/encoder", "sequence", Encoder, tokens(40, 2, 7)),
    Entry("plain/cross-attention", "sequence", CrossAttention, lambda: (torch.randn(2, 5, 6), torch.randn(2, 8, 7))),
    Entry("plain/rotary-decoder", "sequence", Rotary, tokens(40, 2, 7)),
    Entry("plain/linear-attention", "sequence", Performer, normal(2, 7, 5)),
    Entry("plain/state-space", "sequence", StateSpace, normal(2, 6, 5)),
    Entry("plain/relative-positions", "sequence", RelativePositions, normal(2, 8, 5)),
    Entry("plain/forecast", "sequence", Forecast, normal(3, 12)),
)
