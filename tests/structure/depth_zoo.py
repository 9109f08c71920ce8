"""Small models with skips of every kind, and what of each can be bypassed."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from penjing.workload.samples import ResNet


class Residual(nn.Module):
    """y = x + f(x), in the ways that code writes it."""

    def __init__(self, branch: nn.Module, write: str = "plain") -> None:
        super().__init__()
        self.branch, self.write = branch, write

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        if self.write == "into the branch":
            return y.add_(x)
        if self.write == "into the skip":
            return x.add_(y)
        if self.write == "scaled branch":
            return torch.add(x, y, alpha=0.5)
        if self.write == "scaled skip":
            return torch.add(y, x, alpha=0.5)
        return x + y


class Chain(nn.Module):
    """An embedding, blocks in a row and a head."""

    def __init__(self, *blocks: nn.Module, width: int = 6) -> None:
        super().__init__()
        self.embed, self.blocks, self.head = nn.Linear(4, width), nn.Sequential(*blocks), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(x)))


def mlp(width: int = 6) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 10), nn.GELU(), nn.Linear(10, width))


class PreActivation(nn.Module):
    """ResNet v2 whose first activation writes into the skip."""

    def __init__(self) -> None:
        super().__init__()
        self.act, self.conv1, self.conv2 = nn.ReLU(inplace=True), nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(x)
        return self.conv2(F.relu(self.conv1(y))) + x


class WritesSkip(nn.Module):
    """A branch that writes into a part of its skip: leaving it out would leave the skip unwritten."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(2, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1.5
        part = x[:, :2]
        part.mul_(2)
        return x + self.up(part)


class ReadTwice(nn.Module):
    """A value inside the branch is read outside it too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.a(x))
        return (x + self.b(inner)) * inner


class Cubed(nn.Module):
    """The polynomial of GELU is a sum with a skip, but holds no weights."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.044715 * x**3)))


class Parallel(nn.Module):
    """Attention and MLP read the same norm and are added at once."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention, self.mlp = nn.LayerNorm(6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + torch.tanh(self.attention(y)) + F.gelu(self.mlp(y))


class TwoStreams(nn.Module):
    """The other stream carries what the first does not: neither is a skip of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.g = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        a, b = F.relu(self.a(x)), F.relu(self.b(x))
        return a + (b + self.g(a))


class Tapped(nn.Module):
    """What follows a sum writes into it, while its skip is read again later."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.branch, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = (x + self.branch(x)).mul_(2)
        return self.head(torch.cat([x, y], -1))


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, channels last, layer scale that starts at zero, stochastic depth."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.scale = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x).permute(0, 2, 3, 1)
        y = self.scale * self.down(F.gelu(self.up(self.norm(y))))
        y = y.permute(0, 3, 1, 2)
        if self.training:
            y = y * torch.empty(len(x), 1, 1, 1).bernoulli_(0.9)
        return x + y


class InvertedResidual(nn.Module):
    """MobileNetV2's block: a skip where the shapes allow it."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        wide = 2 * inputs
        self.conv = nn.Sequential(
            nn.Sequential(nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(inplace=True)),
            nn.Conv2d(wide, wide, 3, stride, padding=1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(inplace=True),
            nn.Conv2d(wide, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.has_skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.has_skip else self.conv(x)


class Images(nn.Module):
    """A stem, blocks and a head for images."""

    def __init__(self, width: int, *blocks: nn.Module, last: int | None = None) -> None:
        super().__init__()
        self.stem, self.features = nn.Conv2d(3, width, 3, padding=1), nn.Sequential(*blocks)
        self.head = nn.Linear(last or width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(self.stem(x)).mean((2, 3)))


class SumUNet(nn.Module):
    """A U-Net that adds its skips: the inner level is a branch, and so is all below the first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down, self.inner = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, 2, 1), mlp(8)
        self.up, self.head = nn.ConvTranspose2d(8, 4, 2, 2), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = F.relu(self.down(x)).permute(0, 2, 3, 1)
        y = (y + self.inner(y)).permute(0, 3, 1, 2)
        return self.head(x + self.up(y))


class Decoder(nn.Module):
    """Self-attention, cross-attention to an encoder's output, MLP: pre-norm, twice; a mask comes from the side."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = nn.MultiheadAttention(6, 2, batch_first=True)
            self.cross = nn.MultiheadAttention(6, 2, batch_first=True)
            self.norm1, self.norm2, self.mlp = nn.LayerNorm(6), nn.LayerNorm(6), mlp()

        def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> tuple[Tensor, None]:
            y = self.norm1(x)
            x = x + self.own(y, y, y, attn_mask=mask, need_weights=False)[0]
            x = x + self.cross(self.norm2(x), memory, memory, need_weights=False)[0]
            return x + self.mlp(x), None

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.embed = nn.Linear(4, 6), nn.Linear(4, 6)
        self.layers, self.head = nn.ModuleList(self.Layer() for _ in range(2)), nn.Linear(6, 3)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, x = F.relu(self.encoder(source)), self.embed(target)
        mask = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).triu(1)
        for layer in self.layers:
            x, _ = layer(x, memory, mask)
        return self.head(x)


class Shared(nn.Module):
    """One transformer layer, called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(4, 6), nn.Linear(6, 3)
        self.layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True, norm_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for _ in range(3):
            x = self.layer(x)
        return self.head(x)


class Encoder(nn.Module):
    """torch's own transformer encoder."""

    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True, norm_first=norm_first)
        self.embed, self.head = nn.Linear(4, 6), nn.Linear(6, 3)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x)).mean(1))


def rows() -> Tensor:
    return torch.randn(3, 4)


def sequences() -> Tensor:
    return torch.randn(3, 5, 4)


def images() -> Tensor:
    return torch.randn(3, 3, 8, 8)


Case = tuple[Callable[[], nn.Module], Callable[[], Tensor | tuple[Tensor, ...]], tuple[str, ...], tuple[str, ...]]

# Model, inputs, and the names of its layers and of its branches.
ZOO: dict[str, Case] = {
    "resnet-18": (
        lambda: ResNet((2, 2, 2, 2), (4, 6, 8, 10)),
        lambda: torch.randn(3, 1, 8, 8),
        *[("blocks.0", "blocks.1", "blocks.3", "blocks.5", "blocks.7")] * 2,
    ),
    "pre-norm": (
        lambda: Encoder(norm_first=True),
        sequences,
        tuple(f"encoder.layers.{i}" for i in range(3)),
        tuple(f"encoder.layers.{i}.{part}" for i in range(3) for part in ("self_attn", "linear1")),
    ),
    "post-norm": (
        lambda: Encoder(norm_first=False),
        sequences,
        tuple(f"encoder.layers.{i}" for i in range(3)),
        tuple(f"encoder.layers.{i}.{part}" for i in range(3) for part in ("self_attn", "linear1")),
    ),
    "decoder": (
        Decoder,
        lambda: (torch.randn(3, 5, 4), torch.randn(3, 4, 4)),
        ("layers.0", "layers.1"),
        tuple(f"layers.{i}.{part}" for i in range(2) for part in ("own", "cross", "mlp")),
    ),
    "shared": (
        Shared,
        sequences,
        ("layer", "layer:2", "layer:3"),
        tuple(f"layer.{part}{call}" for call in ("", ":2", ":3") for part in ("self_attn", "linear1")),
    ),
    "convnext": (
        lambda: Images(4, ConvNeXtBlock(4), ConvNeXtBlock(4), ConvNeXtBlock(4)),
        images,
        *[("features.0", "features.1", "features.2")] * 2,
    ),
    "mobilenet": (
        lambda: Images(
            4, InvertedResidual(4, 4), InvertedResidual(4, 6, 2), InvertedResidual(6, 6), InvertedResidual(6, 8), last=8
        ),
        images,
        *[("features.0", "features.2")] * 2,
    ),
    "parallel": (lambda: Chain(Parallel(), Parallel()), rows, *[("blocks.0", "blocks.1")] * 2),
    "into the branch": (
        lambda: Chain(Residual(mlp(), "into the branch"), Residual(mlp(), "into the branch")),
        rows,
        *[("blocks.0", "blocks.1")] * 2,
    ),
    "into the skip": (
        lambda: Chain(Residual(mlp(), "into the skip"), Residual(mlp(), "into the skip")),
        rows,
        *[("blocks.0", "blocks.1")] * 2,
    ),
    "scaled branch": (
        lambda: Chain(Residual(mlp(), "scaled branch"), nn.Linear(6, 6)),
        rows,
        *[("blocks.0",)] * 2,
    ),
    "pre-activation": (lambda: Chain(PreActivation(), PreActivation()), rows, *[("blocks.0", "blocks.1")] * 2),
    "tapped": (Tapped, rows, *[("branch",)] * 2),
    "u-net of sums": (SumUNet, images, *[("inner",)] * 2),
}
NONE: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "scaled skip": (lambda: Chain(Residual(mlp(), "scaled skip"), nn.Linear(6, 6)), rows),
    "branch that is read twice": (lambda: Chain(ReadTwice()), rows),
    "branch that writes its skip": (lambda: Chain(WritesSkip()), rows),
    "sum without weights": (lambda: Chain(Cubed()), rows),
    "two streams": (lambda: Chain(TwoStreams()), rows),
    "projected skip": (lambda: ResNet((1, 1), (4, 8)).get_submodule("blocks.1"), lambda: torch.randn(2, 4, 8, 8)),
    "the whole model": (lambda: Residual(nn.Linear(4, 4)), rows),
}
