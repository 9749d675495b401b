"""How large do trained frequency filters become on CIFAR-10? Their energy within windows, by layer.

A small residual network is trained on real images as it is and with `niff` in its stride-1 spatial convolutions. The
script reports both test accuracies, the mean energy and magnitude of the filters within windows before and after
training, and the accuracy and the retained energy after every filter is cropped to k x k.

    python -m benchmarks.studies.niff_kernels [--images 4000] [--epochs 4] [--boundary circular] [--threads 1]

The images are the first of `cifar10.npz` in the folder CONVSWAP_DATA, and a quarter as many of its test images. The
recipe is short: it serves the kernels, not the accuracy.
"""

from __future__ import annotations

import argparse
import copy
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convswap
from benchmarks.common import write_result
from convswap.measure.kernel_mass import KernelMass, niff_kernel_mass
from convswap.models.cifar_resnet import BasicBlock
from convswap.units import NIFFConv2d

WINDOWS = (1, 3, 5, 7, 9, 13, 17)
CROPS = (3, 5, 7)
BATCH = 64


def network() -> nn.Module:
    """A stem and three residual blocks of 16, 32 and 64 channels at 32, 16 and 8 px."""
    torch.manual_seed(0)
    blocks = [BasicBlock(16, 16), BasicBlock(16, 32, 2), BasicBlock(32, 64, 2)]
    stem = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def images(count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Standardised training images (count, 3, 32, 32) and their labels, and a quarter as many for testing."""
    with np.load(Path(os.environ.get("CONVSWAP_DATA", ".")) / "cifar10.npz") as arrays:
        found = [
            torch.from_numpy(arrays[f"{kind}_{part}"][:number])
            for part, number in (("train", count), ("test", count // 4))
            for kind in ("x", "y")
        ]
    x, y, x_test, y_test = found
    x, x_test = (part.permute(0, 3, 1, 2).float() for part in (x, x_test))
    mean, deviation = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True)
    return (x - mean) / deviation, y.long(), (x_test - mean) / deviation, y_test.long()


def train(model: nn.Module, x: Tensor, y: Tensor, epochs: int) -> None:
    """AdamW, one cycle, mirrored images."""
    steps = epochs * (len(x) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=generator)
        for rows in order[: len(x) // BATCH * BATCH].split(BATCH):
            batch = torch.where(torch.rand(BATCH, 1, 1, 1, generator=generator) < 0.5, x[rows], x[rows].flip(-1))
            optimizer.zero_grad()
            F.cross_entropy(model(batch), y[rows]).backward()
            optimizer.step()
            schedule.step()
    model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The accuracy in evaluation."""
    right = sum(int((model.eval()(a).argmax(1) == b).sum()) for a, b in zip(x.split(250), y.split(250), strict=True))
    return right / len(x)


def windows(found: dict[str, KernelMass]) -> dict[str, Any]:
    """Mean magnitude and energy of each layer's filters within each window."""
    table = {}
    for path, mass in found.items():
        cells = {str(size): mass.mean(size) for size in WINDOWS if size <= mass.sizes[-1]}
        table[path] = {
            "magnitude": {size: pair[0] for size, pair in cells.items()},
            "energy": {size: pair[1] for size, pair in cells.items()},
            "window_of_95_percent": mass.size_holding(0.95),
        }
    return table


def cropped(model: nn.Module, sizes: dict[str, tuple[int, int]], crop: int) -> tuple[nn.Module, float]:
    """The model with every filter cropped, and the mean energy kept."""
    model, kept = copy.deepcopy(model), []
    for path, size in sizes.items():
        parent, _, name = path.rpartition(".")
        form = model.get_submodule(path).spatial(size, crop)  # type: ignore[operator]
        setattr(model.get_submodule(parent), name, form.module)
        kept.append(float(form.energy.mean()))
    return model, sum(kept) / len(kept)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--boundary", default="circular")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    x, y, x_test, y_test = images(options.images)
    host = network()
    model = convswap.swap(network(), "niff", start="fresh", boundary=options.boundary)
    before = windows(niff_kernel_mass(model, x[:1]))
    result: dict[str, Any] = {"images": len(x), "epochs": options.epochs, "boundary": options.boundary}
    for name, net in (("plain", host), ("niff", model)):
        train(net, x, y, options.epochs)
        result[f"{name}_accuracy"] = accuracy(net, x_test, y_test)
        print(f"{name}: {100 * result[f'{name}_accuracy']:.1f} % of {len(x_test)} images", flush=True)
    after = windows(niff_kernel_mass(model, x[:1]))
    for path, layer in after.items():
        shown = ", ".join(f"{size}: {part:.2f}" for size, part in layer["energy"].items())
        print(f"{path}: energy within {shown}; 95 % within {layer['window_of_95_percent']}")
    sides = (32, 16, 8)
    paths = [name for name, m in model.named_modules() if isinstance(m, NIFFConv2d)]
    sizes = {path: (side, side) for path in paths for side in [sides[int(path[0]) - 3]]}
    result |= {"before": before, "after": after, "cropped": {}}
    for crop in CROPS:
        net, kept = cropped(model, sizes, crop)
        result["cropped"][str(crop)] = {"energy_kept": kept, "accuracy": (right := accuracy(net, x_test, y_test))}
        print(f"cropped to {crop}x{crop}: {kept:.3f} of the energy, {100 * right:.1f} %")
    write_result(f"studies/niff_kernels{'' if options.boundary == 'circular' else '_' + options.boundary}", result)


if __name__ == "__main__":
    main()
