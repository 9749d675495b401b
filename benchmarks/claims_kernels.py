"""The claims on kernels, of the VGNet paper on depthwise layers and of the NIFF paper on frequency filters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from claims_rules import Number, between_layers, over_kernels, over_seeds, spearman, trend
from torch import Tensor, nn

from convswap.measure.kernel_mass import KernelMass, niff_kernel_mass
from convswap.models import create_model
from convswap.see.classes import CLASSES, classify_layer
from convswap.see.kernels import LayerKernels, layer_kernels
from convswap.see.lowpass import low_pass

THRESHOLDS = (0.8, 0.7, 0.9)
"""Of the classes: the first one decides, the others show how much hangs on it."""
STRIDED = {"mobilenet_v1": (2, 4, 6, 12), "mobilenet_v2": (2, 4, 7, 14)}
"""Blocks whose depthwise layer has stride 2, by architecture."""
WINDOW = 9
"""The effective size the NIFF paper marks."""


def quantized_layers(path: Path) -> list[LayerKernels]:
    """The depthwise layers of an 8-bit MobileNet: weight = (q - zero) scale, scale and zero per tensor or channel."""
    architecture = next((name for name in STRIDED if path.name.startswith(name)), None)
    if architecture is None:
        raise ValueError(f"{path.name} is not allowed; give a file of {' or '.join(STRIDED)}")
    found: list[LayerKernels] = []
    stage = 0
    with np.load(path) as arrays:
        names = [name.removesuffix(".weight_q") for name in arrays.files if name.endswith(".weight_q")]
        depthwise = [name for name in names if arrays[f"{name}.weight_q"].shape[1:] == (1, 3, 3)]
        for name in sorted(depthwise, key=_block):
            q, scale, zero = (arrays[f"{name}.{part}"] for part in ("weight_q", "scale", "zero"))
            weight = (q.astype(np.float64) - zero.reshape(-1, 1, 1, 1)) * scale.astype(np.float64).reshape(-1, 1, 1, 1)
            stride = 2 if _block(name) in STRIDED[architecture] else 1
            stage += stride == 2
            shape = f"{len(q)}->{len(q)} 3x3 depthwise"
            kernels = torch.from_numpy(weight)
            last = name == max(depthwise, key=_block)
            found.append(
                LayerKernels(name, shape, kernels, "weight", (stride, stride), (1, 1), True, stage, last_depthwise=last)
            )
    return found


def _block(name: str) -> int:
    return int(name.split(".")[1])


@dataclass(frozen=True)
class Depthwise:
    """What the claims need of the depthwise layers of one network, in order.

    Attributes:
        layers: the layers.
        aliasing, gain: (kernels,) of each; NaN of a kernel of zeros.
        labels: (kernels,) of each, index into `CLASSES`.
    """

    layers: list[LayerKernels]
    aliasing: list[Tensor]
    gain: list[Tensor]
    labels: list[Tensor]

    @classmethod
    def of(cls, layers: Sequence[LayerKernels], threshold: float = THRESHOLDS[0]) -> Depthwise:
        """Measure the depthwise ones among these layers."""
        chosen = [layer for layer in layers if layer.depthwise]
        passed = low_pass(chosen)
        labels = [classify_layer(layer, threshold=threshold).labels for layer in chosen]
        return cls(chosen, [p.aliasing for p in passed], [p.gain for p in passed], labels)

    def pick(self, values: Sequence[Tensor], strided: bool) -> list[Tensor]:
        """The values of the strided layers, or of the others."""
        return [v for v, layer in zip(values, self.layers, strict=True) if layer.strided == strided]

    def shares(self, name: str) -> list[float]:
        """The part of one class in each stride-1 layer."""
        return [share([labels], name) for labels in self.pick(self.labels, False)]

    def thirds(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """The labels of the stride-1 layers in the first, middle and last third of them."""
        labels = self.pick(self.labels, False)
        parts: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        for index, layer in enumerate(labels):
            parts[int(3 * (index + 0.5) / len(labels))].append(layer)
        return parts

    def table(self) -> list[dict[str, Any]]:
        """One row a layer."""
        rows = []
        for layer, aliasing, gain, labels in zip(self.layers, self.aliasing, self.gain, self.labels, strict=True):
            row: dict[str, Any] = {"layer": layer.name, "kernels": len(labels), "stride": layer.stride[0]}
            row |= {"aliasing": float(aliasing.nanmean()), "dc_gain": float(gain.nanmean())}
            row["zero_kernels"] = int(aliasing.isnan().sum())
            rows.append(row | {name: share([labels], name) for name in CLASSES})
        return rows


def share(labels: Sequence[Tensor], name: str) -> float:
    """The part of the kernels of these layers that is of a class."""
    return float((torch.cat(list(labels)) == CLASSES.index(name)).double().mean())


def middle_excess(thirds: Sequence[Sequence[Tensor]]) -> float:
    """Identity-like part of the middle third minus the larger of the other two."""
    first, middle, last = (share(part, "identity") for part in thirds)
    return middle - max(first, last)


def layer_means(values: Sequence[Tensor]) -> list[float]:
    """Means over the kernels that are not zero."""
    return [float(v.nanmean()) for v in values]


def statistics(found: Depthwise) -> dict[str, float]:
    """The number behind each claim, of one network."""
    strided, others = (layer_means(found.pick(found.aliasing, s)) for s in (True, False))
    return {
        "aliasing": sum(strided) / len(strided) - sum(others) / len(others),
        "gaussian_strided": share(found.pick(found.labels, True), "gaussian"),
        "gaussian_last": share(found.labels[-1:], "gaussian"),
        "identity_middle": share(found.thirds()[1], "identity"),
        "identity_excess": middle_excess(found.thirds()),
        "edge_most": share(found.pick(found.labels, False), "edge"),
        "edge_falls": spearman(found.shares("edge")),
        "gaussian_grows": spearman(found.shares("gaussian")),
    }


def numbers_of_one(found: Depthwise) -> dict[str, Number]:
    """The same of one given network, with intervals over its kernels or tests over its layers."""
    thirds = found.thirds()
    lengths = [len(part) for part in thirds]

    def excess(layers: Sequence[Tensor]) -> float:
        parts = iter(layers)
        return middle_excess([[next(parts) for _ in range(length)] for length in lengths])

    def part_of(name: str, layers: Sequence[Tensor]) -> Number:
        return over_kernels(layers, lambda drawn: share(drawn, name))

    means = [layer_means(found.pick(found.aliasing, strided)) for strided in (True, False)]
    return {
        "aliasing": between_layers(*means),
        "gaussian_strided": part_of("gaussian", found.pick(found.labels, True)),
        "gaussian_last": part_of("gaussian", found.labels[-1:]),
        "identity_middle": part_of("identity", thirds[1]),
        "identity_excess": over_kernels([layer for part in thirds for layer in part], excess),
        "edge_most": part_of("edge", found.pick(found.labels, False)),
        "edge_falls": trend(found.shares("edge")),
        "gaussian_grows": trend(found.shares("gaussian")),
    }


def numbers_of_seeds(trained: Sequence[Depthwise], started: Sequence[Depthwise]) -> dict[str, Number]:
    """Of networks trained from several seeds, with intervals over the seeds; and what training changed."""
    each = [statistics(found) for found in trained]
    numbers = {name: over_seeds([values[name] for values in each]) for name in each[0]}
    changes = []
    for after, before in zip(trained, started, strict=True):
        means = [layer_means(found.pick(found.aliasing, True)) for found in (after, before)]
        changes.append(sum(means[0]) / len(means[0]) - sum(means[1]) / len(means[1]))
    return numbers | {"aliasing_learned": over_seeds(changes)}


def pretrained_networks(folder: Path) -> dict[str, list[LayerKernels]]:
    """The depthwise layers of every MobileNet in a folder of 8-bit weights.

    Raises:
        FileNotFoundError: there is none.
    """
    files = sorted(folder.glob("mobilenet_v*.npz"))
    if not files:
        raise FileNotFoundError(f"no mobilenet_v*.npz in {folder}")
    return {path.stem: quantized_layers(path) for path in files}


def dense_networks(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """3x3 layers of the pretrained CIFAR ResNets, which have no depthwise ones: low-pass measures by stride."""
    tables = {}
    for path in sorted(folder.glob("resnet*.th")):
        name = f"cifar_{path.name.partition('-')[0]}"
        layers = low_pass(layer_kernels(create_model(name, num_classes=10, weights=path)))[1:]  # the stem sees images
        tables[name] = [
            {
                "stride": stride,
                "layers": sum(max(p.stride) > 0 and ("strided" in p.role) == (stride == 2) for p in layers),
                "aliasing": _mean([p.mean_aliasing for p in layers if ("strided" in p.role) == (stride == 2)]),
                "dc_gain": _mean([p.mean_gain for p in layers if ("strided" in p.role) == (stride == 2)]),
            }
            for stride in (1, 2)
        ]
    return tables


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def filters_within(model: nn.Module, side: int = 32) -> dict[int, dict[str, float]]:
    """Of the frequency filters of a model that sees 32 px: by map size, the part within windows."""
    found = niff_kernel_mass(model, torch.zeros(1, 3, side, side))
    by_side: dict[int, list[KernelMass]] = {}
    for mass in found.values():
        by_side.setdefault(mass.sizes[-1] - 1, []).append(mass)  # windows end one pixel beyond an even side
    table = {}
    for size, masses in sorted(by_side.items(), reverse=True):
        row: dict[str, float] = {}
        for window in (3, 5, 9):
            pairs = [mass.mean(window) for mass in masses]
            row |= {
                f"magnitude_{window}": _mean([m for m, _ in pairs]),
                f"energy_{window}": _mean([e for _, e in pairs]),
            }
        table[size] = row
    return table


def niff_numbers(
    trained: Sequence[dict[int, dict[str, float]]], started: Sequence[dict[int, dict[str, float]]], side: int = 32
) -> dict[str, Number]:
    """The numbers of the filters on the largest maps, over seeds."""
    pairs = list(zip(trained, started, strict=True))
    key = f"energy_{WINDOW}"
    return {
        "niff_energy": over_seeds([after[side][key] for after in trained]),
        "niff_magnitude": over_seeds([after[side][f"magnitude_{WINDOW}"] for after in trained]),
        "niff_beyond_3": over_seeds([1 - after[side]["energy_3"] for after in trained]),
        "niff_learned": over_seeds([after[side][key] - before[side][key] for after, before in pairs]),
    }
