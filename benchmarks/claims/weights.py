"""The pretrained networks whose kernels are examined: 8-bit MobileNets, and CIFAR ResNets for comparison."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from convswap.models import create_model
from convswap.see.kernels import LayerKernels, layer_kernels
from convswap.see.lowpass import low_pass

STRIDED = {"mobilenet_v1": (2, 4, 6, 12), "mobilenet_v2": (2, 4, 7, 14)}
"""Blocks whose depthwise layer has stride 2, by architecture."""


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


def pretrained_networks(folder: Path) -> dict[str, list[LayerKernels]]:
    """The depthwise layers of every MobileNet in a folder of 8-bit weights.

    Raises:
        FileNotFoundError: there is none.
    """
    files = sorted(folder.glob("mobilenet_v*.npz"))
    if not files:
        raise FileNotFoundError(f"no mobilenet_v*.npz in {folder}")
    return {path.stem: quantized_layers(path) for path in files}


def likeness(networks: dict[str, list[LayerKernels]]) -> dict[str, float]:
    """Median cosine between the same kernels of two networks of one architecture: 1 where they are one network."""
    found = {}
    for first, second in itertools.combinations(networks, 2):
        pairs = list(zip(networks[first], networks[second], strict=False))
        if len(networks[first]) == len(networks[second]) and all(a.weight.shape == b.weight.shape for a, b in pairs):
            cosines = [torch.cosine_similarity(a.kernels.flatten(1), b.kernels.flatten(1)) for a, b in pairs]
            found[f"{first} and {second}"] = float(torch.cat(cosines).median())
    return found


def dense_networks(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """3x3 layers of the pretrained CIFAR ResNets, which have no depthwise layers: low-pass measures by stride."""
    tables = {}
    for path in sorted(folder.glob("resnet*.th")):
        name = f"cifar_{path.name.partition('-')[0]}"
        layers = low_pass(layer_kernels(create_model(name, num_classes=10, weights=path)))[1:]  # the stem sees images
        groups = {
            stride: [layer for layer in layers if ("strided" in layer.role) == (stride == 2)] for stride in (1, 2)
        }
        tables[name] = [
            {
                "stride": stride,
                "layers": len(group),
                "aliasing": _mean([layer.mean_aliasing for layer in group]),
                "dc_gain": _mean([layer.mean_gain for layer in group]),
            }
            for stride, group in groups.items()
        ]
    return tables


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
