"""A small residual network and the packaged digits: what the demo, the examples and the tests optimise.

The network is the CIFAR family of He et al. 2016, "Deep Residual Learning for Image Recognition" (arXiv:1512.03385,
section 4.2), with projection shortcuts, so that every channel of it can be cut.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: y = relu(x' + bn(conv(relu(bn(conv(x)))))), shapes [N, C, H, W]."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """A residual network for small images: input [N, channels, H, W], output logits [N, classes].

    >>> ResNet(depths=(1, 1), widths=(4, 8))(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    def __init__(self, depths: Sequence[int], widths: Sequence[int], channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        blocks: list[nn.Module] = []
        inputs = widths[0]
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            for i in range(depth):
                blocks.append(BasicBlock(inputs, width, stride=2 if stage > 0 and i == 0 else 1))
                inputs = width
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn(self.conv(x)))
        logits: Tensor = self.fc(torch.flatten(self.pool(self.blocks(y)), 1))
        return logits


def resnet20(channels: int = 1, classes: int = 10) -> ResNet:
    """ResNet-20 for 28x28 or 32x32 images (272k parameters with one input channel)."""
    return ResNet((3, 3, 3), (16, 32, 64), channels, classes)


def resnet18(channels: int = 1, classes: int = 10) -> ResNet:
    """ResNet-18 with the small-image stem (11.2M parameters)."""
    return ResNet((2, 2, 2, 2), (64, 128, 256, 512), channels, classes)
