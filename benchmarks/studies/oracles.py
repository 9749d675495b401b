"""Do networks that others trained give their figure here? Three, rebuilt of our units, on CIFAR-10's test images.

- Ghost-ResNet-56 (github.com/TingsongYu/ghostnet_cifar10), `cifar_resnet56` with the unit `ghost`: 91.05 %.
- ResNet-8 of MLPerf Tiny (github.com/mlcommons/tiny) with TensorFlow's "same" padding, also swapped to `circle` and
  `ic`: 87.21 %.
- CNV with binary weights and inputs (github.com/Xilinx/BNN-PYNQ), a mixed plan of the unit `quantized`: 79.23 %.

Each is measured as rebuilt, and again after `fuse`. The figures are those of small runners that hold the networks' own
arithmetic and none of ours. The weights are not part of this repository.

    python -m benchmarks.studies.oracles --weights FOLDER --data-root DATA
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn

import convswap
from benchmarks.common import write_result
from convswap.units import with_marks

BATCH = 250


@dataclass(frozen=True)
class Oracle:
    """A trained network and what it must give.

    Attributes:
        build: from the folder of the weights to the network in eval mode.
        prepare: from uint8 images (N, H, W, 3) to its input.
        figure: how many of the 10,000 test images it gets right, and of the first 1,000.
        reswapped: units that start exactly and are put on top, for the network to answer the same.
    """

    build: Callable[[Path], nn.Module]
    prepare: Callable[[np.ndarray], Tensor]
    figure: tuple[int, int]
    reswapped: tuple[str, ...] = ()


def predictions(model: nn.Module, oracle: Oracle, images: np.ndarray) -> np.ndarray:
    """The class of every image."""
    with torch.inference_mode():
        parts = [
            model(oracle.prepare(images[i : i + BATCH])).flatten(1).argmax(1) for i in range(0, len(images), BATCH)
        ]
    return torch.cat(parts).numpy()


def forms(oracle: Oracle, folder: Path) -> dict[str, nn.Module]:
    """The network as rebuilt, with other units on top, and each fused."""
    example = oracle.prepare(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8))
    found = {"as rebuilt": oracle.build(folder)}
    for unit in oracle.reswapped:
        found[f"swapped to {unit}"] = convswap.swap(found["as rebuilt"], unit, where="3x3", example_input=example)
    return found | {f"{name}, fused": convswap.fuse(model, example) for name, model in found.items()}


def _ghost_resnet56(folder: Path) -> nn.Module:
    """Every 3x3 convolution a Ghost module with rectifiers, and the host's BatchNorm behind each of them."""
    # within a Sequential no input is declared, and without an example no BatchNorm is taken over
    host = nn.Sequential(convswap.create_model("cifar_resnet56", num_classes=10))
    model = convswap.swap(host, "ghost", where="3x3", start="fresh", relu=True).get_submodule("0")
    file = folder / "ghost_resnet56_cifar10" / "ghost_resnet56_cifar10_state_dict.pth"
    model.load_state_dict(with_marks(model, torch.load(file, weights_only=True)), strict=True)
    return model.eval()


def _normalized(images: np.ndarray) -> Tensor:
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2023, 0.1994, 0.2010])
    return ((torch.tensor(images) / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


class _TinyBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Conv2dSame(inputs, outputs, 3, stride)
        self.relu = nn.ReLU()
        self.conv2 = Conv2dSame(outputs, outputs, 3)
        self.shortcut = Conv2dSame(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return (self.conv2(self.relu(self.conv1(x_NCHW))) + self.shortcut(x_NCHW)).relu()


class TinyResNet8(nn.Module):
    """ResNet-8 of MLPerf Tiny, its BatchNorms folded. (N, 3, 32, 32) in 0..255 to (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = Conv2dSame(3, 16, 3)
        self.stage1, self.stage2, self.stage3 = _TinyBlock(16, 16, 1), _TinyBlock(16, 32, 2), _TinyBlock(32, 64, 2)
        self.fc = nn.Linear(64, 10)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Classify."""
        return self.fc(self.stage3(self.stage2(self.stage1(self.conv1(x_NCHW).relu()))).mean((2, 3)))


def _resnet8(folder: Path) -> nn.Module:
    model = TinyResNet8()
    arrays = np.load(folder / "resnet8_cifar10" / "resnet8.npz")
    model.load_state_dict({name: torch.tensor(arrays[name]) for name in arrays.files}, strict=True)
    return model.eval()


def _pixels(images: np.ndarray) -> Tensor:
    return torch.tensor(images).permute(0, 3, 1, 2).float().contiguous()


def _cnv(folder: Path) -> nn.Module:
    """Binary layers whose integer thresholds become the means of BatchNorms that the next layer takes the sign of.

    A layer of n weights counts c equal bits; its convolution of +-1 gives s = 2 c - n. `c > t` means `s > 2 t - n`, and
    s is odd or even as n is, so the mean stands in the middle of two possible values, `2 t + 1 - n`. In the first layer
    s is a multiple of 1/128, and `s > t / 256` means `s > (t + 0.5) / 256`, which s never equals.
    """
    arrays = np.load(folder / "binary_cnv" / "cnv_w1a1_cifar10.npz")
    model = nn.Sequential()
    for i in range(9):
        outputs, inputs, *kernel = (*(int(n) for n in arrays[f"shape{i}"]), 1, 1)[:4]
        bits = np.unpackbits(arrays[f"w{i}"], axis=1)[:, : inputs * kernel[0] * kernel[1]]
        conv = nn.Conv2d(inputs, outputs, tuple(kernel), bias=False)
        conv.weight = nn.Parameter(torch.tensor(bits.reshape(conv.weight.shape), dtype=torch.float32) * 2 - 1)
        model.add_module(f"conv{i}", conv)
        if i < 8:
            threshold = torch.tensor(arrays[f"t{i}"], dtype=torch.float32)
            norm = nn.BatchNorm2d(outputs, affine=False)
            norm.running_mean = (threshold + 0.5) / 256 if i == 0 else 2 * threshold + 1 - bits.shape[1]
            model.add_module(f"norm{i}", norm)
        if i in (1, 3):
            model.add_module(f"pool{i}", nn.MaxPool2d(2))
    plan = {"conv0": ("quantized", {"activation_bits": 32}), "!conv0": "quantized"}
    swapped = convswap.swap(model.eval(), plan, example_input=torch.zeros(1, 3, 32, 32))
    convswap.load_plain(swapped, model.state_dict())
    return swapped


def _on_a_grid(images: np.ndarray) -> Tensor:
    """Multiples of 1/128 from -1 to 127/128."""
    return torch.tensor(np.clip(np.rint((images / 255 * 2 - 1) * 128), -128, 127) / 128).permute(0, 3, 1, 2).float()


ORACLES = {
    "Ghost-ResNet-56": Oracle(_ghost_resnet56, _normalized, (9105, 914)),
    "MLPerf Tiny ResNet-8": Oracle(_resnet8, _pixels, (8721, 881), ("circle", "ic")),
    "binary CNV": Oracle(_cnv, _on_a_grid, (7923, 805)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, type=Path, help="folder of the networks' folders")
    parser.add_argument("--data-root", required=True, type=Path, help="folder with cifar10.npz")
    options = parser.parse_args()
    data = np.load(options.data_root / "cifar10.npz")
    images, labels = data["x_test"], data["y_test"]
    rows: list[dict[str, Any]] = []
    for name, oracle in ORACLES.items():
        plain = None
        for form, model in forms(oracle, options.weights).items():
            found = predictions(model, oracle, images)
            plain = found if plain is None else plain
            right, changed = int((found == labels).sum()), int((found != plain).sum())
            rows.append(
                {"network": name, "form": form, "right": right, "expected": oracle.figure[0], "changed": changed}
            )
            figure = f"{right / len(labels):.2%} (figure {oracle.figure[0] / 1e4:.2%})"
            print(f"{name:22} {form:24} {figure}, {changed} changed")
    write_result("studies/oracles", {"images": len(labels), "goal": "right equals expected", "rows": rows})


if __name__ == "__main__":
    main()
