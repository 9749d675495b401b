"""A data set and a network so small that a training takes a moment, with dropout and BatchNorm all the same."""

from __future__ import annotations

import torch
from torch import nn

from convswap.data import ArrayImages, Data
from convswap.hooks import Hooks
from convswap.train import Recipe


def make_data(count: int = 50, classes: int = 3, size: int = 8, channels: int = 1) -> Data:
    generator = torch.Generator().manual_seed(0)

    def images(n: int) -> ArrayImages:
        labels = torch.arange(n) % classes
        pixels = torch.randint(0, 90, (n, channels, size, size), generator=generator)
        for index, label in enumerate(labels):  # a bright stripe tells the class
            pixels[index, :, :, 2 * int(label) : 2 * int(label) + 2] += 160
        return ArrayImages(pixels.to(torch.uint8), labels)

    return Data(
        name="stripes",
        train=images(count),
        test=images(21),
        num_classes=classes,
        channels=channels,
        image_size=(size, size),
        mean=(0.3,) * channels,
        std=(0.25,) * channels,
        class_names=tuple("abcdefgh"[:classes]),
        fingerprint="f" * 64,
        flip=False,
    )


def make_model(seed: int = 0, classes: int = 3, channels: int = 1) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.AdaptiveAvgPool2d((1, 8)),
        nn.Flatten(),
        nn.Linear(64, classes),
    )


class Bounded(Hooks, nn.Sequential):
    """`make_model` with a first weight that must stay within a bound and learns at another rate."""

    BOUND = 0.05

    def __init__(self, seed: int = 0) -> None:
        super().__init__(*make_model(seed))
        self.calls = 0

    def constrain_(self) -> None:
        self.calls += 1
        self[0].weight.clamp_(-self.BOUND, self.BOUND)

    def learning_rate_scale(self) -> dict[str, float]:
        return {"0.weight": 3.0}


def make_recipe(**changes: object) -> Recipe:
    values = {"epochs": 3, "batch_size": 16, "learning_rate": 0.1, "crop_padding": 0, "precision": "fp32"}
    return Recipe(**{**values, **changes})  # type: ignore[arg-type]
