"""Small models of vectors, tables, sets, points and graphs in plain torch."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from benchmarks.zoo import Entry, normal


class TiedAutoencoder(nn.Module):
    """The decoder uses the encoder's weights, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 12)
        self.bias1, self.bias2 = nn.Parameter(torch.zeros(32)), nn.Parameter(torch.zeros(16))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.first(x))))
        return F.linear(F.relu(F.linear(x, self.second.weight.t(), self.bias1)), self.first.weight.t(), self.bias2)


class PointNet(nn.Module):
    """Layers shared by points, an input transform, a maximum over points (Qi et al. 2016, arXiv:1612.00593)."""

    def __init__(self) -> None:
        super().__init__()
        self.align = nn.Sequential(nn.Conv1d(3, 16, 1), nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten())
        self.matrix = nn.Linear(16, 9)
        self.first, self.norm, self.second = nn.Conv1d(3, 24, 1), nn.BatchNorm1d(24), nn.Conv1d(24, 32, 1)
        self.segment, self.head = nn.Conv1d(56, 20, 1), nn.Conv1d(20, 4, 1)

    def forward(self, points: Tensor) -> Tensor:
        matrix = self.matrix(self.align(points)).view(-1, 3, 3) + torch.eye(3)
        local = F.relu(self.norm(self.first(torch.bmm(matrix, points))))
        whole = self.second(local).max(2, keepdim=True).values.expand(-1, -1, points.shape[2])
        return self.head(F.relu(self.segment(torch.cat([local, whole], 1))))


class EdgeConvolution(nn.Module):
    """Features of the nearest neighbours, found by topk and gathered (DGCNN, arXiv:1801.07829)."""

    def __init__(self, neighbours: int = 3) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.edge, self.mix, self.head = nn.Conv2d(6, 16, 1), nn.Conv1d(16, 24, 1), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        nearest = torch.cdist(x.transpose(1, 2), x.transpose(1, 2)).topk(self.neighbours, largest=False).indices
        index = nearest.flatten(1)[:, None].expand(-1, x.shape[1], -1)
        others = x.gather(2, index).unflatten(2, nearest.shape[1:])
        here = x[..., None].expand_as(others)
        edges = F.leaky_relu(self.edge(torch.cat([here, others - here], 1)), 0.2).amax(-1)
        return self.head(F.relu(self.mix(edges)).amax(-1))


class GraphConvolution(nn.Module):
    """Messages along a dense normalised adjacency (Kipf and Welling 2016, arXiv:1609.02907)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 16), nn.Linear(16, 20), nn.Linear(20, 3)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        adjacency = adjacency + torch.eye(adjacency.shape[-1])
        adjacency = adjacency / adjacency.sum(-1, keepdim=True)
        x = F.relu(adjacency @ self.first(x))
        return self.head(F.relu(torch.bmm(adjacency, self.second(x))))


class GraphAttention(nn.Module):
    """Additive attention over edges, absent ones masked (Velickovic et al. 2017, arXiv:1710.10903)."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.head = nn.Linear(6, 24, bias=False), nn.Linear(24, 3)
        self.source, self.target = nn.Parameter(torch.randn(3, 8)), nn.Parameter(torch.randn(3, 8))

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        h = self.project(x).unflatten(-1, (3, 8)).transpose(1, 2)
        source, target = (h * self.source[:, None]).sum(-1), (h * self.target[:, None]).sum(-1)
        scores = F.leaky_relu(source[..., :, None] + target[..., None, :], 0.2)
        scores = scores.masked_fill(adjacency[:, None] == 0, float("-inf"))
        return self.head(F.elu((scores.softmax(-1) @ h).transpose(1, 2).flatten(2)))


class MessagePassing(nn.Module):
    """Messages along a list of edges, added up by index (Gilmer et al. 2017, arXiv:1704.01212)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.message, self.update = nn.Linear(5, 16), nn.Linear(32, 24), nn.GRUCell(24, 16)
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor, source: Tensor, target: Tensor) -> Tensor:
        x = self.embed(x)
        for _ in range(2):
            messages = F.relu(self.message(torch.cat([x[source], x[target]], -1)))
            total = messages.new_zeros(x.shape[0], messages.shape[1]).index_add(0, target, messages)
            x = self.update(total, x)
        return self.head(x)


class DeepSet(nn.Module):
    """The same layer for each member, a sum, and a layer for the whole (Zaheer et al. 2017, arXiv:1703.06114)."""

    def __init__(self) -> None:
        super().__init__()
        self.each = nn.Sequential(nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 24), nn.ReLU())
        self.whole = nn.Sequential(nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.whole(self.each(x).sum(1))


class Radiance(nn.Module):
    """Fourier features of a position, a skip by concatenation, density and colour (NeRF, arXiv:2003.08934)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(27, 32), nn.Linear(32, 32), nn.Linear(59, 32), nn.Linear(32, 32)])
        self.density, self.feature, self.view = nn.Linear(32, 1), nn.Linear(32, 24), nn.Linear(27, 16)
        self.colour = nn.Linear(16, 3)

    def forward(self, position: Tensor, direction: Tensor) -> Tensor:
        waves = [f(2**i * position) for i in range(4) for f in (torch.sin, torch.cos)]
        x = encoded = torch.cat([position, *waves], -1)
        for i, layer in enumerate(self.layers):
            x = F.relu(layer(torch.cat([encoded, x], -1) if i == 2 else x))
        colour = F.relu(self.view(torch.cat([self.feature(x), direction], -1)))
        return torch.cat([self.colour(colour).sigmoid(), F.relu(self.density(x))], -1)


class FeatureTokens(nn.Module):
    """Every column of a table is a token of a small transformer (FT-Transformer, arXiv:2106.11959)."""

    def __init__(self, columns: int = 6, width: int = 16) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(columns, width)), nn.Parameter(torch.randn(columns, width))
        self.category, self.cls = nn.Embedding(9, width), nn.Parameter(torch.randn(1, 1, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.up, self.down, self.head = nn.Linear(width, 48), nn.Linear(24, width), nn.Linear(width, 2)

    def forward(self, numbers: Tensor, category: Tensor) -> Tensor:
        x = numbers[:, :, None] * self.weight + self.bias
        x = torch.cat([self.cls.expand(len(x), -1, -1), x, self.category(category)], 1)
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        a, b = self.up(self.norm2(x)).chunk(2, -1)
        return self.head((x + self.down(a * F.relu(b)))[:, 0])


class Recommender(nn.Module):
    """Embeddings and their products by pairs (DLRM, arXiv:1906.00091)."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.EmbeddingBag(20, 8, mode="sum") for _ in range(3))
        self.bottom = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(14, 24), nn.ReLU(), nn.Linear(24, 1))
        self.register_buffer("pairs", torch.tril_indices(4, 4, -1), persistent=False)

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        x = self.bottom(numbers)
        found = [x, *(table(categories[:, i]) for i, table in enumerate(self.tables))]
        features = torch.stack(found, 1)
        products = torch.bmm(features, features.transpose(1, 2))
        return self.top(torch.cat([x, products[:, self.pairs[0], self.pairs[1]]], 1)).sigmoid()


class WideAndDeep(nn.Module):
    """A linear part beside a deep one, embeddings looked up for every field (arXiv:1606.07792)."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.embed = nn.Linear(6, 1), nn.ModuleList(nn.Embedding(12, 5) for _ in range(3))
        self.deep = nn.Sequential(nn.Linear(21, 24), nn.BatchNorm1d(24), nn.Mish(), nn.Linear(24, 12), nn.Hardswish())
        self.last = nn.Linear(12, 1)

    def forward(self, numbers: Tensor, fields: Tensor) -> Tensor:
        embedded = [table(fields[:, i]) for i, table in enumerate(self.embed)]
        return self.wide(numbers) + self.last(self.deep(torch.cat([numbers, *embedded], -1)))


class CrossNetwork(nn.Module):
    """Each layer multiplies by the input once more (DCN-V2, arXiv:2008.13535)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.crosses = nn.Linear(6, 16), nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
        self.head = nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = first = self.embed(x)
        for cross in self.crosses:
            x = first * cross(x) + x
        return self.head(x)


class MixtureOfExperts(nn.Module):
    """Every expert runs; a softmax over the best two weighs them (Shazeer et al. 2017, arXiv:1701.06538)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.gate = nn.Linear(6, 16), nn.Linear(16, 4)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16)) for _ in range(4))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        scores = self.gate(x)
        best, where = scores.topk(2, -1)
        weights = torch.zeros_like(scores).scatter(-1, where, best.softmax(-1))
        outputs = torch.stack([expert(x) for expert in self.experts], -1)
        return self.head(x + (outputs * weights.unsqueeze(-2)).sum(-1))


class SharedExperts(nn.Module):
    """The weights of all experts in one tensor, applied by einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.gate = nn.Linear(6, 12), nn.Linear(12, 3)
        self.up, self.down = nn.Parameter(torch.randn(3, 12, 20) * 0.3), nn.Parameter(torch.randn(3, 20, 12) * 0.3)
        self.head = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        hidden = F.relu(torch.einsum("nc,ech->neh", x, self.up))
        outputs = torch.einsum("neh,ehc->nec", hidden, self.down)
        return self.head(torch.einsum("nec,ne->nc", outputs, self.gate(x).softmax(-1)))


class Splines(nn.Module):
    """Learned functions on the edges: radial bases of each input (KAN-like, arXiv:2404.19756)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("grid", torch.linspace(-2, 2, 5))
        self.first, self.second = nn.Parameter(torch.randn(12, 4, 5) * 0.3), nn.Parameter(torch.randn(3, 12, 5) * 0.3)
        self.base1, self.base2 = nn.Linear(4, 12), nn.Linear(12, 3)

    def layer(self, x: Tensor, weight: Tensor, base: nn.Linear) -> Tensor:
        bases = torch.exp(-((x[..., None] - self.grid) ** 2))
        return base(F.silu(x)) + torch.einsum("nik,oik->no", bases, weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x, self.first, self.base1), self.second, self.base2)


class HyperNetwork(nn.Module):
    """One network writes the weights of another (Ha et al. 2016, arXiv:1609.09106)."""

    def __init__(self) -> None:
        super().__init__()
        self.writer = nn.Sequential(nn.Linear(5, 24), nn.ReLU(), nn.Linear(24, 6 * 8 + 8))
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        weights, bias = self.writer(task).split([48, 8], -1)
        hidden = torch.baddbmm(bias[:, None], x[:, None], weights.view(-1, 6, 8)).squeeze(1)
        return self.head(torch.tanh(hidden))


class Policy(nn.Module):
    """A shared trunk, a policy head and a dueling value head (arXiv:1511.06581)."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, 32), nn.LayerNorm(32), nn.Tanh(), nn.Linear(32, 24), nn.Tanh())
        self.value, self.advantage = nn.Linear(24, 1), nn.Linear(24, 4)
        self.mean, self.spread = nn.Linear(24, 2), nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.trunk(x)
        advantage = self.advantage(x)
        q = self.value(x) + advantage - advantage.mean(-1, keepdim=True)
        return {"q": q, "mean": self.mean(x).tanh(), "std": self.spread.exp().expand(len(x), 2)}


class Highway(nn.Module):
    """Gates carry the input past a layer (Srivastava et al. 2015, arXiv:1505.00387)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, 16), nn.Linear(16, 3)
        self.change, self.gates = (nn.ModuleList(nn.Linear(16, 16) for _ in range(2)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for change, gate in zip(self.change, self.gates, strict=True):
            carry = torch.sigmoid(gate(x))
            x = carry * F.relu(change(x)) + (1 - carry) * x
        return self.head(x)


class BilinearPooling(nn.Module):
    """Two vectors meet in torch's Bilinear and in an outer product."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(6, 7)
        self.bilinear, self.outer, self.head = nn.Bilinear(8, 7, 10), nn.Linear(56, 10), nn.Linear(10, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = F.relu(self.a(a)), F.relu(self.b(b))
        product = torch.einsum("ni,nj->nij", a, b).flatten(1)
        return self.head(F.relu(self.bilinear(a, b) + self.outer(product)))


class LowRank(nn.Module):
    """Frozen weights with a low-rank addition (LoRA, arXiv:2106.09685)."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)
        self.a, self.b = nn.Parameter(torch.randn(4, 8) * 0.3), nn.Parameter(torch.randn(32, 4) * 0.3)
        self.head = nn.Linear(8, 3)
        self.up.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.selu(self.up(x) + 2.0 * (x @ self.a.t() @ self.b.t()))
        return self.head(x + self.down(hidden))


def graph(nodes: int = 5) -> tuple[Tensor, Tensor]:
    """Features [2, nodes, 6] and a symmetric adjacency with loops."""
    edges = (torch.rand(2, nodes, nodes) > 0.5).float()
    return torch.randn(2, nodes, 6), (edges + edges.transpose(1, 2) + torch.eye(nodes)).clamp(max=1)


def edges(nodes: int = 6, count: int = 10) -> tuple[Tensor, Tensor, Tensor]:
    """Features [nodes, 5] and the ends of each edge."""
    return torch.randn(nodes, 5), torch.randint(nodes, (count,)), torch.randint(nodes, (count,))


ENTRIES = (
    Entry("plain/tied-autoencoder", "vector", TiedAutoencoder, normal(3, 16)),
    Entry("plain/pointnet", "points", PointNet, normal(2, 3, 12)),
    Entry("plain/edge-convolution", "points", EdgeConvolution, normal(2, 3, 12)),
    Entry("plain/graph-convolution", "graph", GraphConvolution, graph),
    Entry("plain/graph-attention", "graph", GraphAttention, graph),
    Entry("plain/message-passing", "graph", MessagePassing, edges),
    Entry("plain/deep-set", "points", DeepSet, normal(2, 7, 4)),
    Entry("plain/radiance", "vector", Radiance, lambda: (torch.randn(5, 3), torch.randn(5, 3))),
    Entry("plain/feature-tokens", "table", FeatureTokens, lambda: (torch.randn(3, 6), torch.randint(9, (3, 2)))),
    Entry("plain/recommender", "table", Recommender, lambda: (torch.randn(3, 5), torch.randint(20, (3, 3, 2)))),
    Entry("plain/wide-and-deep", "table", WideAndDeep, lambda: (torch.randn(3, 6), torch.randint(12, (3, 3)))),
    Entry("plain/cross-network", "table", CrossNetwork, normal(3, 6)),
    Entry("plain/mixture-of-experts", "vector", MixtureOfExperts, normal(3, 6)),
    Entry("plain/shared-experts", "vector", SharedExperts, normal(3, 6)),
    Entry("plain/splines", "vector", Splines, normal(3, 4)),
    Entry("plain/hypernetwork", "vector", HyperNetwork, lambda: (torch.randn(3, 6), torch.randn(3, 5))),
    Entry("plain/policy", "vector", Policy, normal(3, 8)),
    Entry("plain/highway", "vector", Highway, normal(3, 6)),
    Entry("plain/bilinear", "vector", BilinearPooling, lambda: (torch.randn(3, 5), torch.randn(3, 6))),
    Entry("plain/low-rank", "vector", LowRank, normal(3, 8)),
)
