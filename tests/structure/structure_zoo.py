"""Small models in plain torch, each with a structure that a cut has to understand."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from penjing.workload.samples import ResNet


class Vgg(nn.Module):
    """Convolutions, then a flatten into linear layers: one channel owns a block of columns."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 12, 3),
            nn.ReLU(),
        )
        self.head = nn.Sequential(nn.Linear(12 * 4, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x)
        return self.head(y.view(y.size(0), -1))


class DenseNet(nn.Module):
    """Every layer reads the concatenation of all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(6 + 4 * i), nn.ReLU(), nn.Conv2d(6 + 4 * i, 4, 3, padding=1)) for i in range(3)
        )
        self.fc = nn.Linear(18, 5)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return self.fc(torch.cat(features, 1).mean((2, 3)))


class MobileNet(nn.Module):
    """Inverted residual with depthwise convolution and squeeze-and-excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
        self.expand = nn.Sequential(nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.depthwise = nn.Sequential(
            nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU6()
        )
        self.squeeze = nn.Conv2d(16, 4, 1)
        self.excite = nn.Conv2d(4, 16, 1)
        self.project = nn.Sequential(nn.Conv2d(16, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.depthwise(self.expand(x))
        scale = self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1))))
        y = x + self.project(y * F.hardsigmoid(scale))
        return self.fc(F.adaptive_avg_pool2d(y, 1).flatten(1))


class ShuffleNet(nn.Module):
    """Grouped convolutions with a channel shuffle written as view, transpose, view; halves split and joined again."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.conv1 = nn.Conv2d(12, 12, 1, groups=3)
        self.conv2 = nn.Conv2d(12, 24, 3, padding=1, groups=3)
        self.branch = nn.Conv2d(12, 12, 1)
        self.fc = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv1(F.relu(self.stem(x))))
        n, c, h, w = y.shape
        y = y.view(n, 3, c // 3, h, w).transpose(1, 2).reshape(n, c, h, w)
        left, right = F.relu(self.conv2(y)).chunk(2, 1)
        y = torch.cat([left, self.branch(right)], 1)
        return self.fc(y.mean((-1, -2)))


class UNet(nn.Module):
    """Skips are concatenated over a resampling and a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Conv2d(3, 6, 3, padding=1)
        self.down2 = nn.Conv2d(6, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.join1 = nn.Conv2d(12, 6, 3, padding=1)
        self.join2 = nn.Conv2d(14, 7, 3, padding=1)
        self.head = nn.Conv2d(7, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.down1(x))
        b = F.relu(self.down2(F.max_pool2d(a, 2)))
        y = F.relu(self.join1(torch.cat([self.up(b), a], 1)))
        y = torch.cat([y, F.interpolate(b, scale_factor=2, mode="bilinear", align_corners=False)], 1)
        return self.head(F.leaky_relu(self.join2(y)))


class TiedAutoencoder(nn.Module):
    """The decoder is the transpose of the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(10, 8)
        self.second = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        code = torch.tanh(self.second(torch.tanh(self.first(x))))
        return F.linear(torch.tanh(F.linear(code, self.second.weight.t())), self.first.weight.t())


class TiedLanguageModel(nn.Module):
    """One table embeds tokens and scores them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.hidden = nn.Linear(8, 12)
        self.back = nn.Linear(12, 8)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        return self.head(x + self.back(F.gelu(self.hidden(x))))


class Mlp(nn.Module):
    """Linear layers with a layer norm over the residual width."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 12)
        self.norm = nn.LayerNorm(12)
        self.up = nn.Linear(12, 16)
        self.down = nn.Linear(16, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(x + self.down(F.gelu(self.up(self.norm(x)))))


class Attention(nn.Module):
    """Multi-head attention with its sizes written into the forward."""

    def __init__(self, width: int = 12, heads: int = 3) -> None:
        super().__init__()
        self.heads, self.scale = heads, math.sqrt(width // heads)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q @ k.transpose(-2, -1) / self.scale).softmax(-1)
        return self.out((scores @ v).transpose(1, 2).reshape(n, t, c))


class Transformer(nn.Module):
    """Pre-norm blocks of attention and GELU layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 12)
        self.position = nn.Parameter(torch.randn(1, 7, 12) * 0.1)
        self.norm1, self.attention = nn.LayerNorm(12), Attention()
        self.norm2 = nn.LayerNorm(12)
        self.mlp = nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 12))
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.position
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return self.head(x.mean(1))


class FusedAttention(nn.Module):
    """Grouped-query attention by scaled_dot_product_attention, queries, keys and values from layers of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(6, 16), nn.Linear(6, 8), nn.Linear(6, 8)
        self.out = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (f(x).view(n, t, -1, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.out(y.transpose(1, 2).reshape(n, t, 16))


class LinearAttention(nn.Module):
    """Attention by feature maps that are one where their input is zero: a product of activations that is inexact."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k = F.elu(self.q(x)) + 1, F.elu(self.k(x)) + 1
        total = q @ k.sum(1, keepdim=True).transpose(1, 2)
        return self.out(q @ (k.transpose(1, 2) @ self.v(x)) / total)


class GatedMlp(nn.Module):
    """Both halves of one layer meet in a product."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 16), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, -1)
        return self.down(F.silu(gate) * value)


class GroupNormNet(nn.Module):
    """Group norm between convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm, self.conv2 = nn.Conv2d(3, 12, 3), nn.GroupNorm(4, 12), nn.Conv2d(12, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.silu(self.norm(self.conv1(x))))


class SuperResolution(nn.Module):
    """Channels become positions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 1), nn.Conv2d(4, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(F.pixel_shuffle(self.conv2(F.relu(self.conv1(x))), 2))
        return F.pixel_shuffle(self.conv3(y), 2)


class Recurrent(nn.Module):
    """A recurrent layer read at every step."""

    def __init__(self, kind: type[nn.RNNBase], bidirectional: bool = False) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 6)
        self.rnn = kind(6, 8, num_layers=2, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(16 if bidirectional else 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(x))[0].mean(1))


class MultiheadEncoder(nn.Module):
    """torch's own encoder layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 12)
        layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x)).mean(1))


def image(size: int = 8) -> Tensor:
    return torch.randn(2, 3, size, size)


ZOO: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "resnet": lambda: (ResNet((1, 1), (8, 12)), torch.randn(2, 1, 8, 8)),
    "vgg": lambda: (Vgg(), image()),
    "densenet": lambda: (DenseNet(), image()),
    "mobilenet": lambda: (MobileNet(), image()),
    "shufflenet": lambda: (ShuffleNet(), image()),
    "unet": lambda: (UNet(), image()),
    "tied autoencoder": lambda: (TiedAutoencoder(), torch.randn(3, 10)),
    "tied language model": lambda: (TiedLanguageModel(), torch.randint(20, (2, 5))),
    "mlp": lambda: (Mlp(), torch.randn(3, 6)),
    "transformer": lambda: (Transformer(), torch.randn(2, 7, 5)),
    "fused attention": lambda: (FusedAttention(), torch.randn(2, 5, 6)),
    "linear attention": lambda: (LinearAttention(), torch.randn(2, 5, 6)),
    "gated mlp": lambda: (GatedMlp(), torch.randn(3, 6)),
    "group norm": lambda: (GroupNormNet(), image()),
    "super resolution": lambda: (SuperResolution(), image()),
    "lstm": lambda: (Recurrent(nn.LSTM), torch.randn(2, 5, 4)),
    "gru": lambda: (Recurrent(nn.GRU, bidirectional=True), torch.randn(2, 5, 4)),
    "encoder": lambda: (MultiheadEncoder(), torch.randn(2, 7, 5)),
}
