"""A network to put a unit into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def small_host(num_classes: int, geometry: Mapping[str, Any]) -> nn.Module:
    """One convolution of that geometry, BatchNorm and ReLU, global pooling, and a linear layer."""
    conv = nn.Conv2d(**geometry)
    return nn.Sequential(
        conv,
        nn.BatchNorm2d(conv.out_channels),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(conv.out_channels, num_classes),
    )
