"""The networks that the claims train on CIFAR-10, with their seeds, and one command that trains the missing ones.

    python -m benchmarks.claims.networks --lab LAB [--data-root DATA] [--groups depthwise,niff] [--seeds 3]

Trainings go through `convswap.lab`, so the same command goes on where it stopped. `__main__.py` reads the lab.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from convswap.cli.grid import suitable_process
from convswap.data import Data, load_data
from convswap.lab import Trial, run_grid
from convswap.models.min_net import MinNet
from convswap.train import small_image_recipe


@dataclass(frozen=True)
class Network:
    """One network to train: a model of `create_model`, a unit swapped in, and the epochs."""

    name: str
    model: str
    unit: str = "conv"
    unit_options: dict[str, Any] = field(default_factory=dict)
    model_arguments: dict[str, Any] = field(default_factory=dict)
    epochs: int = 1

    def trial(self, data: Data, seed: int) -> Trial:
        """The network from one seed."""
        return Trial(
            model=self.model,
            model_arguments=self.model_arguments,
            unit=self.unit,
            unit_options=self.unit_options,
            data=data.name,
            data_fingerprint=data.fingerprint,
            recipe=small_image_recipe(self.epochs).as_dict(),
            seed=seed,
        )


SMALL_RESNET = {"layers": [1, 1, 1, 1], "channels": [32, 48, 64, 64]}
"""timm's resnet18 with one block per stage and few channels. It keeps its 7x7 stem and its max-pool."""
STEMS: dict[str, dict[str, Any]] = {
    "plain": {"pooling": "max", "wavelet_channels": 0},
    "max": {"pooling": "max"},
    "blur": {"pooling": "blur"},
    "modulus": {"pooling": "modulus"},
}
GROUPS: dict[str, tuple[Network, ...]] = {
    "depthwise": (Network("small MobileNet", "claims_networks:small_mobilenet"),),
    "niff": (Network("cifar_resnet8 with niff", "cifar_resnet8", "niff"),),
    "jpeg": (
        Network("pyramid blocks", "claims_networks:pyramid_resnet8"),
        Network("minimum blocks", "claims_networks:min_net11"),
    ),
    "shifts": tuple(Network(name, "resnet18", "cmod", stem, SMALL_RESNET) for name, stem in STEMS.items()),
}
"""The networks behind each kind of claim."""
MOBILE_WIDTHS = ((32, 1), (64, 2), (64, 1), (128, 1), (128, 1), (128, 2), (128, 1), (128, 1))
"""Outputs and stride of each separable block of `small_mobilenet`."""


def small_mobilenet(num_classes: int, in_channels: int = 3) -> nn.Module:
    """A MobileNetV1 for 32 px: a strided 3x3 stem with 16 maps, then eight separable blocks, two of them strided.

    A block is a 3x3 depthwise and a 1x1 convolution, each with BatchNorm and ReLU. Weights start as PyTorch draws them.
    """

    def layer(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
        return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]

    layers, width = layer(in_channels, 16, 3, 2), 16
    for outputs, stride in MOBILE_WIDTHS:
        layers += [*layer(width, width, 3, stride, width), *layer(width, outputs, 1)]
        width = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))


def pyramid_resnet8(num_classes: int, in_channels: int = 3) -> nn.Module:
    """The baseline of the Min-Net paper with one pyramid block in each of the three stages (N = 1)."""
    return MinNet(1, combine=None, num_classes=num_classes, in_chans=in_channels)


def min_net11(num_classes: int, in_channels: int = 3) -> nn.Module:
    """The Min-Net for N = 1: a minimum block in each of the three stages."""
    return MinNet(1, num_classes=num_classes, in_chans=in_channels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lab", type=Path, required=True)
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--groups", default=",".join(GROUPS))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    data: Any = load_data("cifar10", root=options.data_root, download=False)
    networks = [network for group in options.groups.split(",") for network in GROUPS[group]]
    # Seeds vary slowest, so a stopped grid is still a fair comparison.
    grid = [network.trial(data, seed) for seed in range(options.seeds) for network in networks]
    with suitable_process(data):
        rows = run_grid(grid, options.lab, data_root=options.data_root)
    raise SystemExit(any(row.state != "finished" for row in rows))


if __name__ == "__main__":
    main()
