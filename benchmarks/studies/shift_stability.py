"""How much do a stem's features and a network's answers change when the image moves? Max-pool, blur-pool, modulus.

CIFAR-10 test images are moved by 0.5 to 8 px. Moving adds no border: each image is enlarged (bilinear) to 2 (32 + 8)
px, windows of 64 px are cut out along a row (17 of them, one pixel of the enlarged image apart) and halved by the mean
of 2x2 pixels. So a window is 32 px, a step half a pixel, and nothing is padded. Inputs are normalised.

Stems (all `cmod` options in the place of a ResNet's stem, 64 channels): `plain`, the convolution with BatchNorm, ReLU
and max-pool; `max`, 24 of its channels wavelets; `blur`, that twin blur-pooled; `modulus`; `modulus_blur`.

1. Untrained stems (`--seeds` of them) whose norms have seen 256 training images. Of the wavelet channels and of the
   free ones: `|f(x moved) - f(x)|`, as a root mean square over images, divided by that of f (`relative`), or by that of
   f minus each channel's mean (`centred`): the modulus has a large mean, which alone makes the first small.
   `pooled` is the centred change of each channel's mean over the image, all a classifier behind a global pool sees.
2. Small ResNets (four basic blocks), trained from one seed on a part of the training images, cut out at random
   places and mirrored. `flips[d]`: the mean over images and over all pairs of windows that are d apart of
   [predicted label differs]; `divergence[d]`: KL(answer to the first window, answer to the one d further).

    python -m benchmarks.studies.shift_stability --data-root DATA [--images 500] [--epochs 4]
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn
from torch.nn import functional as F

import convswap
from benchmarks.common import write_result
from convswap.data import load_data
from convswap.units import ModulusStem
from convswap.units.cmod.parts import GaborBatchNorm2d

SIDE, LARGEST = 32, 8  # pixels of a window, and of the largest move
STEMS: dict[str, dict[str, Any]] = {
    "plain": {"pooling": "max", "wavelet_channels": 0},
    "max": {"pooling": "max"},
    "blur": {"pooling": "blur"},
    "modulus": {"pooling": "modulus"},
    "modulus_blur": {"pooling": "modulus_blur"},
}
Images = tuple[Tensor, Tensor]


def enlarged(x_N3HW: Tensor) -> Tensor:
    """uint8 images to normalised ones of 2 (32 + 8) px."""
    mean = torch.tensor([0.4914, 0.4822, 0.4465])[:, None, None]
    std = torch.tensor([0.2470, 0.2435, 0.2616])[:, None, None]
    whole = 2 * (SIDE + LARGEST)
    x = F.interpolate(x_N3HW.float() / 255, size=(whole, whole), mode="bilinear", align_corners=False)
    return (x - mean) / std


def window(x: Tensor, step: int, row: int = LARGEST) -> Tensor:
    """The 32 px window that lies `step` half pixels to the right (and `row` down) in enlarged images."""
    return F.avg_pool2d(x[..., row : row + 2 * SIDE, step : step + 2 * SIDE], 2)


def calibrate(stem: nn.Module, x: Tensor) -> nn.Module:
    """The stem in evaluation, its norms set to the statistics of these images."""
    for norm in stem.modules():
        if isinstance(norm, nn.BatchNorm2d | GaborBatchNorm2d):
            norm.momentum = 1.0
    stem.train()
    with torch.no_grad():
        stem(x)
    return stem.eval()


@torch.no_grad()
def feature_change(stem: nn.Module, x: Tensor, channels: slice) -> dict[str, list[float]]:
    """`relative`, `centred` and `pooled` for each of the 16 moves."""
    first = stem(window(x, 0))[:, channels]
    scales = {
        "relative": first.square().mean(),
        "centred": (first - first.mean((0, 2, 3), keepdim=True)).square().mean(),
        "pooled": (first.mean((2, 3)) - first.mean((0, 2, 3))).square().mean(),
    }
    found: dict[str, list[float]] = {name: [] for name in scales}
    for step in range(1, 2 * LARGEST + 1):
        change = stem(window(x, step))[:, channels] - first
        for name, scale in scales.items():
            moved = change.mean((2, 3)) if name == "pooled" else change
            found[name].append(float((moved.square().mean() / scale).sqrt()))
    return found


def untrained(test: Tensor, train: Tensor, seeds: int) -> dict[str, Any]:
    """Part 1: the mean over seeds."""
    table: dict[str, Any] = {}
    calibration = window(enlarged(train[:256]), LARGEST)
    for name, options in STEMS.items():
        parts = {"free": slice(0, 40), "wavelets": slice(40, 64)}
        if name == "plain":
            parts = {"free": slice(0, 64)}
        runs: dict[str, list[dict[str, list[float]]]] = {part: [] for part in parts}
        for seed in range(seeds):
            torch.manual_seed(seed)
            stem = calibrate(ModulusStem(3, 64, 4, **options), calibration)
            for part, channels in parts.items():
                runs[part].append(feature_change(stem, test, channels))
        table[name] = {
            part: {kind: torch.tensor([run[kind] for run in found]).mean(0).tolist() for kind in found[0]}
            for part, found in runs.items()
        }
    return table


def network(stem: str, seed: int) -> nn.Module:
    """A ResNet of four basic blocks with this stem. All other weights are the same for every stem."""
    torch.manual_seed(seed)
    model = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=10, channels=(32, 48, 64, 64))
    return convswap.swap(model, "cmod", start="fresh", example_input=torch.zeros(1, 3, SIDE, SIDE), **STEMS[stem])


def train(model: nn.Module, data: Images, epochs: int, seed: int) -> None:
    """SGD with momentum 0.9, weight decay 1e-4, batch 64, learning rate 0.05 that falls as a cosine."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = enlarged(data[0]), data[1]
    steps = epochs * (len(labels) // 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for _ in range(epochs):
        for picked in torch.randperm(len(labels), generator=generator)[: len(labels) // 64 * 64].split(64):
            row, column, mirror = (int(torch.randint(n, (), generator=generator)) for n in (17, 17, 2))
            x = window(images[picked], column, row)
            loss = F.cross_entropy(model(x.flip(3) if mirror else x), labels[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()


@torch.no_grad()
def stability(model: nn.Module, test: Tensor, labels: Tensor) -> dict[str, Any]:
    """Accuracy in the middle, flip rates with the half width of their 95 % interval over images, and divergences."""
    logits = torch.stack([model(window(test, step)) for step in range(2 * LARGEST + 1)])
    answers, chances = logits.argmax(2), logits.log_softmax(2)
    found: dict[str, Any] = {"accuracy": float((answers[LARGEST] == labels).float().mean())}
    found |= {"flips": [], "interval": [], "divergence": []}
    for d in range(1, len(answers)):
        each = (answers[d:] != answers[:-d]).float().mean(0)
        found["flips"].append(float(each.mean()))
        found["interval"].append(float(1.96 * each.std() / len(each) ** 0.5))
        found["divergence"].append(float((chances[0].exp() * (chances[0] - chances[d])).sum(1).mean()))
    return found


def trained(test: Images, data: Images, epochs: int) -> dict[str, Any]:
    """Part 2."""
    x, table = enlarged(test[0]), {}
    for name in STEMS:
        start, model = time.perf_counter(), network(name, 0)
        train(model, data, epochs, 0)
        table[name] = stability(model, x, test[1])
        flips = " ".join(f"{value:.1%}" for value in table[name]["flips"][1::4])
        print(f"{name:13} accuracy {table[name]['accuracy']:.1%}, flips at 1, 3, 5, 7 px {flips}", flush=True)
        print(f"{'':13} ({time.perf_counter() - start:.0f} s)", flush=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--images", type=int, default=500, help="test images")
    parser.add_argument("--training", type=int, default=4000, help="training images of part 2")
    parser.add_argument("--epochs", type=int, default=4, help="of part 2; 0 leaves it out")
    parser.add_argument("--seeds", type=int, default=3, help="of part 1")
    options = parser.parse_args()
    data: Any = load_data("cifar10", root=options.data_root, download=False)
    test = data.test.images[: options.images].contiguous(), data.test.labels[: options.images]
    part = data.train.images[: options.training].contiguous(), data.train.labels[: options.training]
    result = {"pixels": [d / 2 for d in range(1, 2 * LARGEST + 1)], "settings": vars(options) | {"data_root": None}}
    result["untrained"] = untrained(enlarged(test[0]), part[0], options.seeds)
    for name, parts in result["untrained"].items():
        for channels, kinds in parts.items():
            values = "; ".join(f"{kind} {v[0]:.2f} {v[1]:.2f} {v[3]:.2f}" for kind, v in kinds.items())
            print(f"{name:13} {channels:9} moved by 0.5, 1, 2 px: {values}", flush=True)
    if options.epochs:
        result["trained"] = trained(test, part, options.epochs)
    write_result("studies/shift_stability", result)


if __name__ == "__main__":
    main()
