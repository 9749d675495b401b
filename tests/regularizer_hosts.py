"""Networks with every place that a method of the internal family may need."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convswap.regularizers import Setting


class Block(nn.Module):
    """relu(x + BN(conv(relu(BN(conv(x)))))), or with a second such branch."""

    def __init__(self, channels: int, branches: int = 1) -> None:
        super().__init__()
        self.branches = nn.ModuleList(self.branch(channels) for _ in range(branches))

    @staticmethod
    def branch(channels: int) -> nn.Sequential:
        convolutions = [nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2)]
        norms = [nn.BatchNorm2d(channels) for _ in range(2)]
        return nn.Sequential(convolutions[0], norms[0], nn.ReLU(), convolutions[1], norms[1])

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for branch in self.branches:
            y = y + branch(x)
        return y.relu()


class Host(nn.Module):
    """A stem, a max-pooling, two blocks of one branch and one of two, and a classifier."""

    def __init__(self, channels: int = 1, classes: int = 3, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.pool = nn.MaxPool2d(2)
        self.blocks = nn.Sequential(Block(width), Block(width), Block(width, branches=2))
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.blocks(self.pool(self.stem(x))).mean((2, 3)))
        return logits


def make_host(seed: int = 0, **arguments: int) -> Host:
    torch.manual_seed(seed)
    return Host(**arguments)


def setting_for(channels: int = 1, size: int = 8, classes: int = 3) -> Setting:
    return Setting(num_classes=classes, channels=channels, image_size=(size, size), batch_size=4, epochs=2)
