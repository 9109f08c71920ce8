"""What compensation gains on trained networks: output error and accuracy on digits that nothing was fitted to."""

import functools

import pytest
import torch
from torch import Tensor, nn

from penjing.recipe import PruneChannels
from penjing.techniques import apply
from penjing.workload import Workload
from penjing.workload.digits import digits


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 24, 3, padding=1, bias=False), nn.Conv2d(24, 32, 3, padding=1, stride=2)
        self.norm, self.head = nn.BatchNorm2d(24), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.norm(self.a(x)).relu()).relu().mean((2, 3)))


class Transformer(nn.Module):
    """Rows of an image are its tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(8, 32), nn.Linear(32, 10)
        self.place = nn.Parameter(torch.randn(8, 32) / 8)
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x[:, 0]) + self.place
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


@functools.cache
def trained(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    images, labels = digits()
    model = kind().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(12):
        for index in torch.randperm(1000).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[:1000][index]), labels[:1000][index]).backward()
            optimizer.step()
    return model.eval()


@pytest.mark.parametrize("kind", [Convolutional, Transformer])
@pytest.mark.parametrize("score", ["l2", "random"])
def test_a_refit_keeps_the_outputs_nearer_on_images_never_seen(kind: type[nn.Module], score: str) -> None:
    model, (images, labels) = trained(kind), digits()
    new, truth = images[1400:], labels[1400:]
    w = Workload(model, images[:2], calibration=[(batch,) for batch in images[:1000].split(100)])
    with torch.no_grad():
        wanted = model(new)
        plain, refitted = (
            apply(w, PruneChannels(0.5, score=score, round_to=None, compensate=on), prefer="graph").model(new)
            for on in (False, True)
        )
    errors = [float((outputs - wanted).norm() / wanted.norm()) for outputs in (plain, refitted)]
    right = [float((outputs.argmax(1) == truth).float().mean()) for outputs in (plain, refitted, wanted)]
    assert right[2] > 0.8
    assert errors[1] < 0.6 * errors[0]
    assert right[1] > right[0] + 0.1
    assert right[1] > right[2] - 0.1
