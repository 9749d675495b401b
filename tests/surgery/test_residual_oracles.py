"""Published CIFAR-10 networks answer as before without their residual connections, on the first 1,000 test images.

`benchmarks/studies/residual_removal.py` asks all 10,000.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import convswap
from convswap.data import load_data

# The weights, and how many of the first 1,000 images the network knows.
ORACLES = {"cifar_resnet20": ("resnet20-12fca82f.th", 915), "cifar_resnet56": ("resnet56-4bfd9763.th", 926)}


def predictions(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model(batch).argmax(1) for batch in images.split(250)])


@pytest.mark.parametrize("name", ORACLES)
def test_a_trained_network_answers_as_before(name: str, shared: Path, data_root: Path) -> None:
    file, known = ORACLES[name]
    model = convswap.create_model(name, num_classes=10, weights=shared / "data" / "weights" / file).eval()
    data = load_data("cifar10", root=data_root, download=False)
    mean, std = (torch.tensor(model.default_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    images = (data.test.images[:1000].float() / 255 - mean) / std
    before = predictions(model, images)
    assert int((before == data.test.labels[:1000]).sum()) == known
    chain = convswap.remove_residuals(model, images[:2])
    fused = convswap.fuse(chain, images[:2])
    assert torch.equal(predictions(chain, images), before)
    assert torch.equal(predictions(fused, images), before)
