"""Small image, video and volume models in plain torch, one for each idea that a rule of structure must meet."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from benchmarks.zoo import Entry, image, normal


def conv(inputs: int, outputs: int, kernel: int = 3, **options: int) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **options),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class FlatCnn(nn.Module):
    """Channels and positions flattened into one linear layer by a view."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 12, 3, padding=1), nn.ELU())
        self.hidden, self.head = nn.Linear(12 * 8 * 8, 20), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.body(x), 2)
        return self.head(F.relu(self.hidden(x.view(x.size(0), -1))))


class UNet(nn.Module):
    """Skips are concatenated; transposed convolutions go up."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = conv(3, 16), conv(16, 32), conv(32, 64)
        self.up2, self.join2 = nn.ConvTranspose2d(64, 32, 2, 2), conv(64, 32)
        self.up1, self.join1 = nn.ConvTranspose2d(32, 16, 2, 2), conv(32, 16)
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        y = self.up2(self.bottom(F.max_pool2d(b, 2)))
        y = self.up1(self.join2(torch.cat([b, y], 1)))
        return self.head(self.join1(torch.cat([a, y], 1)))


class UNetPlusPlus(nn.Module):
    """Nested dense skips with bilinear upsampling (Zhou et al. 2018, arXiv:1807.10165)."""

    def __init__(self) -> None:
        super().__init__()
        self.x00, self.x10, self.x20 = conv(3, 8), conv(8, 16), conv(16, 24)
        self.x01, self.x11, self.x02 = conv(24, 8), conv(40, 16), conv(32, 8)
        self.heads = nn.ModuleList([nn.Conv2d(8, 2, 1), nn.Conv2d(8, 2, 1)])

    def up(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    def forward(self, x: Tensor) -> Tensor:
        x00 = self.x00(x)
        x10 = self.x10(F.max_pool2d(x00, 2))
        x01 = self.x01(torch.cat([x00, self.up(x10)], 1))
        x20 = self.x20(F.max_pool2d(x10, 2))
        x11 = self.x11(torch.cat([x10, self.up(x20)], 1))
        x02 = self.x02(torch.cat([x00, x01, self.up(x11)], 1))
        return (self.heads[0](x01) + self.heads[1](x02)) / 2


class SuperResolution(nn.Module):
    """Residual blocks without norms, pixel shuffle at the end (EDSR-like, arXiv:1707.02921)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 24, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(24, 32, 3, padding=1), nn.PReLU(32), nn.Conv2d(32, 24, 3, padding=1))
            for _ in range(2)
        )
        self.up, self.last = nn.Conv2d(24, 64, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = y = self.first(x)
        for block in self.blocks:
            y = y + 0.1 * block(y)
        return self.last(F.pixel_shuffle(self.up(x + y), 2))


class SpaceToDepth(nn.Module):
    """Pixel unshuffle brings positions into channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(32, 24, 1), nn.Conv2d(24, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.gelu(self.down(F.pixel_unshuffle(F.gelu(self.first(x)), 2))))


class SeparableGroupNorm(nn.Module):
    """Depthwise and pointwise convolutions with group norm and SiLU."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, o in ((3, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(i, i, 3, padding=1, groups=i, bias=False), nn.BatchNorm2d(i), nn.ReLU6()]
            layers += [nn.Conv2d(i, o, 1, bias=False), nn.GroupNorm(4, o), nn.SiLU()]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.body(x), 2).amax(dim=(2, 3)))


class SqueezeExcite(nn.Module):
    """Channels are scaled by a small network of their means (Hu et al. 2017, arXiv:1709.01507)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = conv(3, 24), nn.Conv2d(24, 24, 3, padding=1)
        self.squeeze, self.excite, self.head = nn.Linear(24, 6), nn.Linear(6, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.conv(x)
        n, c, _, _ = y.size()
        scale = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1).view(n, c)))))
        return self.head((x + y * scale.view(n, c, 1, 1)).mean((2, 3)))


class Cbam(nn.Module):
    """Channel and spatial attention from means and maxima (Woo et al. 2018, arXiv:1807.06521)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared = conv(3, 16), nn.Sequential(nn.Conv2d(16, 4, 1), nn.ReLU(), nn.Conv2d(4, 16, 1))
        self.spatial, self.head = nn.Conv2d(2, 1, 7, padding=3), nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x * torch.sigmoid(self.shared(F.adaptive_avg_pool2d(x, 1)) + self.shared(F.adaptive_max_pool2d(x, 1)))
        where = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return self.head(x * torch.sigmoid(self.spatial(where)))


class Shuffle(nn.Module):
    """Grouped convolutions with a channel shuffle written as view, transpose, view."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grouped = conv(3, 24), nn.Conv2d(24, 24, 1, groups=4)
        self.depthwise, self.project = nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.Conv2d(24, 8, 1, groups=2)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.grouped(self.stem(x)))
        n, c, h, w = x.shape
        x = x.view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(self.project(self.depthwise(x)).mean((-2, -1)))


class Dense(nn.Module):
    """Each layer sees the concatenation of all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(8 + 6 * i), nn.ReLU(), nn.Conv2d(8 + 6 * i, 6, 3, padding=1)) for i in range(3)
        )
        self.head = nn.Linear(26, 5)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return self.head(torch.cat(features, 1).mean((2, 3)))


class Inception(nn.Module):
    """Branches of several kernels, concatenated; one passes an average pool."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 12)
        self.one, self.three, self.five = nn.Conv2d(12, 6, 1), conv(12, 8), conv(12, 4, 5)
        self.pool, self.head = nn.Conv2d(12, 5, 1), nn.Linear(23, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        branches = [self.one(x), self.three(x), self.five(x), self.pool(F.avg_pool2d(x, 3, 1, 1))]
        return self.head(F.adaptive_avg_pool2d(torch.cat(branches, 1), 1).flatten(1))


class Maxout(nn.Module):
    """The larger of pairs of channels (Goodfellow et al. 2013, arXiv:1302.4389)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(8, 24, 3), nn.Linear(12, 4)

    def pairs(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, c // 2, 2, h, w).amax(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pairs(self.second(self.pairs(self.first(x)))).mean((2, 3)))


class FeaturePyramid(nn.Module):
    """Lateral and top-down paths; one head for every level (Lin et al. 2016, arXiv:1612.03144)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (8, 16, 24)
        self.stages = nn.ModuleList(conv(i, o) for i, o in zip((3, *widths[:-1]), widths, strict=True))
        self.lateral = nn.ModuleList(nn.Conv2d(width, 16, 1) for width in widths)
        self.smooth, self.head = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        levels = []
        for stage in self.stages:
            x = F.max_pool2d(stage(x), 2)
            levels.append(x)
        above, outputs = None, {}
        for i in (2, 1, 0):
            here = self.lateral[i](levels[i])
            above = here if above is None else here + F.interpolate(above, size=here.shape[-2:], mode="nearest")
            outputs[f"p{i}"] = self.head(F.relu(self.smooth(above)))
        return outputs


class SpatialTransformer(nn.Module):
    """The input is resampled on a grid that the model computes (Jaderberg et al. 2015, arXiv:1506.02025)."""

    def __init__(self) -> None:
        super().__init__()
        self.locate = nn.Sequential(nn.Conv2d(3, 8, 5, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.theta = nn.Linear(32, 6)
        self.features, self.head = conv(3, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        theta = self.theta(self.locate(x)).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        features = F.grid_sample(self.features(x), grid, align_corners=False)
        return self.head(features.mean((2, 3)))


class Siamese(nn.Module):
    """One tower for two images, compared by distance."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(conv(3, 16), nn.MaxPool2d(2), conv(16, 24), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.embed = nn.Linear(24, 8)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = self.embed(self.tower(a)), self.embed(self.tower(b))
        return F.cosine_similarity(a, b) - (a - b).pow(2).sum(1).sqrt()


class Normalised(nn.Module):
    """Weights under weight_norm and spectral_norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first = weight_norm(nn.Conv2d(3, 12, 3, padding=1))
        self.second = spectral_norm(nn.Conv2d(12, 16, 3, padding=1))
        self.head = weight_norm(nn.Linear(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.leaky_relu(self.second(F.leaky_relu(self.first(x), 0.2)), 0.2).mean((2, 3)))


class Generator(nn.Module):
    """Noise becomes an image by transposed convolutions (DCGAN-like, arXiv:1511.06434)."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(16, 32 * 16)
        self.body = nn.Sequential(
            nn.ConvTranspose2d(32, 24, 4, 2, 1, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.ConvTranspose2d(24, 12, 4, 2, 1, groups=2),
            nn.InstanceNorm2d(12, affine=True),
            nn.ReLU(),
            nn.Conv2d(12, 3, 3, padding=1),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.body(F.relu(self.project(z)).unflatten(1, (32, 4, 4)))


class AdaptiveStyle(nn.Module):
    """A style vector scales and shifts normalised channels (Huang and Belongie 2017, arXiv:1703.06868)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = (
            nn.Conv2d(3, 16, 3, padding=1),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.Conv2d(16, 3, 1),
        )
        self.style = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 32))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        scale, shift = self.style(style)[:, :, None, None].chunk(2, dim=1)
        x = F.instance_norm(self.second(x)) * (1 + scale) + shift
        return self.head(F.relu(x))


class Film(nn.Module):
    """A condition modulates every block (Perez et al. 2017, arXiv:1709.07871)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16)
        self.convs = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(16, affine=False) for _ in range(2))
        self.condition, self.head = nn.Linear(5, 64), nn.Linear(16, 4)

    def forward(self, x: Tensor, question: Tensor) -> Tensor:
        x = self.stem(x)
        films = self.condition(question).view(-1, 2, 2, 16)
        for i, (layer, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            gamma, beta = films[:, i, 0, :, None, None], films[:, i, 1, :, None, None]
            x = x + F.relu(gamma * norm(layer(x)) + beta)
        return self.head(x.mean((2, 3)))


class DiffusionUNet(nn.Module):
    """A time embedding, group norms, self-attention over positions, skips (arXiv:2006.11239)."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 16))
        self.first, self.norm1, self.down = nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), conv(16, 24)
        self.norm2, self.qkv, self.out = nn.GroupNorm(4, 24), nn.Conv2d(24, 72, 1), nn.Conv2d(24, 24, 1)
        self.up, self.last = nn.Conv2d(40, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)
        self.register_buffer("frequencies", torch.exp(-torch.arange(8) / 2.0))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        phase = t[:, None] * self.frequencies
        time = self.time(torch.cat([phase.sin(), phase.cos()], -1))
        a = F.silu(self.norm1(self.first(x))) + time[:, :, None, None]
        b = self.down(F.avg_pool2d(a, 2))
        q, k, v = self.qkv(self.norm2(b)).flatten(2).chunk(3, 1)
        weights = (q.transpose(1, 2) @ k * 24**-0.5).softmax(-1)
        b = b + self.out((v @ weights.transpose(1, 2)).unflatten(2, b.shape[2:]))
        up = F.interpolate(b, scale_factor=2.0)
        return self.last(F.silu(self.up(torch.cat([a, up], 1))))


class VideoConv(nn.Module):
    """Three-dimensional convolutions, one factorised into space and time."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(3, 8, 3, padding=1),
            nn.BatchNorm3d(8),
            nn.ReLU(),
            nn.MaxPool3d(2),
            nn.Conv3d(8, 16, (1, 3, 3), padding=(0, 1, 1)),
            nn.Conv3d(16, 12, (3, 1, 1), padding=(1, 0, 0)),
            nn.ReLU(),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(12, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class VNet(nn.Module):
    """Volumes down and up, skips added (Milletari et al. 2016, arXiv:1606.04797)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = nn.Conv3d(1, 8, 3, padding=1), nn.Conv3d(8, 16, 2, 2)
        self.bottom, self.up = nn.Conv3d(16, 16, 3, padding=1), nn.ConvTranspose3d(16, 8, 2, 2)
        self.slope, self.head = nn.PReLU(), nn.Conv3d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.slope(self.first(x))
        b = self.slope(self.down(a))
        return self.head(a + self.up(self.slope(self.bottom(b) + b)))


class Reparametrised(nn.Module):
    """Three branches that could be one convolution (RepVGG-like, arXiv:2101.03697)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16)
        self.three, self.one = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.Conv2d(16, 16, 1, bias=False)
        self.norms, self.head = nn.ModuleList(nn.BatchNorm2d(16) for _ in range(3)), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(self.norms[0](self.three(x)) + self.norms[1](self.one(x)) + self.norms[2](x))
        return self.head(x.mean((2, 3)))


class DynamicConvolution(nn.Module):
    """Kernels mixed by an attention over the input (Chen et al. 2019, arXiv:1912.03458)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.choose = conv(3, 8), nn.Linear(8, 3)
        self.kernels, self.head = nn.Parameter(torch.randn(3, 12, 8, 3, 3) * 0.1), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        weights = self.choose(x.mean((2, 3))).softmax(-1)
        outputs = torch.stack([F.conv2d(x, kernel, padding=1) for kernel in self.kernels], 1)
        return self.head(F.relu((weights[:, :, None, None, None] * outputs).sum(1)).mean((2, 3)))


class Mixer(nn.Module):
    """Layers over positions and over channels in turn (Tolstikhin et al. 2021, arXiv:2105.01601)."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm1, self.norm2 = nn.Conv2d(3, 24, 4, 4), nn.LayerNorm(24), nn.LayerNorm(24)
        self.positions = nn.Sequential(nn.Linear(16, 20), nn.GELU(), nn.Linear(20, 16))
        self.channels = nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.Linear(40, 24))
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.positions(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return self.head((x + self.channels(self.norm2(x))).mean(1))


class WindowAttention(nn.Module):
    """Attention within windows of 4 x 4, a learned bias for each head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Conv2d(3, 24, 1), nn.LayerNorm(24)
        self.qkv, self.out, self.head = nn.Linear(24, 72), nn.Linear(24, 24), nn.Linear(24, 5)
        self.bias = nn.Parameter(torch.randn(3, 16, 16) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        n, c, h, w = x.shape
        windows = x.view(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
        q, k, v = self.qkv(self.norm(windows)).reshape(-1, 16, 3, 3, c // 3).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * (c // 3) ** -0.5 + self.bias).softmax(-1)
        windows = windows + self.out((weights @ v).transpose(1, 2).reshape(-1, 16, c))
        return self.head(windows.view(n, -1, c).mean(1))


class VariationalAutoencoder(nn.Module):
    """The mean is decoded in eval mode, a sample in training."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 24), nn.ReLU())
        self.mean, self.log_variance, self.decode = nn.Linear(24, 6), nn.Linear(24, 6), nn.Linear(6, 20)
        self.image = nn.Linear(20, 64)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.encode(x)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp() if self.training else mean
        image = self.image(F.softplus(self.decode(z))).sigmoid().view(-1, 1, 8, 8)
        return image, mean, log_variance


ENTRIES = (
    Entry("plain/flat-cnn", "image", FlatCnn, image(16)),
    Entry("plain/unet", "image", UNet, image(32)),
    Entry("plain/unet++", "image", UNetPlusPlus, image(32)),
    Entry("plain/super-resolution", "image", SuperResolution, image(16)),
    Entry("plain/space-to-depth", "image", SpaceToDepth, image(16)),
    Entry("plain/separable-group-norm", "image", SeparableGroupNorm, image(32)),
    Entry("plain/squeeze-excite", "image", SqueezeExcite, image(16)),
    Entry("plain/cbam", "image", Cbam, image(16)),
    Entry("plain/shuffle", "image", Shuffle, image(16)),
    Entry("plain/dense", "image", Dense, image(16)),
    Entry("plain/inception", "image", Inception, image(16)),
    Entry("plain/maxout", "image", Maxout, image(16)),
    Entry("plain/feature-pyramid", "image", FeaturePyramid, image(32)),
    Entry("plain/spatial-transformer", "image", SpatialTransformer, image(16)),
    Entry("plain/siamese", "image", Siamese, lambda: (torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16))),
    Entry("plain/weight-norm", "image", Normalised, image(16)),
    Entry("plain/generator", "image", Generator, normal(2, 16)),
    Entry("plain/adaptive-style", "image", AdaptiveStyle, lambda: (torch.randn(2, 3, 16, 16), torch.randn(2, 6))),
    Entry("plain/film", "image", Film, lambda: (torch.randn(2, 3, 16, 16), torch.randn(2, 5))),
    Entry("plain/diffusion-unet", "image", DiffusionUNet, lambda: (torch.randn(2, 3, 16, 16), torch.rand(2))),
    Entry("plain/video-conv", "video", VideoConv, normal(2, 3, 4, 8, 8)),
    Entry("plain/vnet", "video", VNet, normal(2, 1, 8, 8, 8)),
    Entry("plain/reparametrised", "image", Reparametrised, image(16)),
    Entry("plain/dynamic-convolution", "image", DynamicConvolution, image(16)),
    Entry("plain/mixer", "image", Mixer, image(16)),
    Entry("plain/window-attention", "image", WindowAttention, image(16)),
    Entry("plain/variational-autoencoder", "image", VariationalAutoencoder, image(8, channels=1)),
)
