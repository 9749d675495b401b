"""The claims of the VGNet paper on the kernels of depthwise layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.claims.rules import Number, between_layers, over_kernels, over_seeds, spearman, trend
from convswap.see.classes import CLASSES, classify_layer
from convswap.see.kernels import LayerKernels
from convswap.see.lowpass import low_pass

THRESHOLDS = (0.8, 0.7, 0.9)
"""Thresholds of the classes: the first one decides, the others show how much depends on it."""
CENTRE = 0.9
"""The part of a kernel's energy in its centre that makes it nearly the identity, whatever surrounds it."""


@dataclass(frozen=True)
class Depthwise:
    """The measurements of one network's depthwise layers, in order, that the claims need.

    Attributes:
        layers: the layers.
        aliasing, gain: (kernels,) of each; NaN of a kernel of zeros.
        labels: (kernels,) of each, index into `CLASSES`.
        centred: (kernels,) of each: whether the centre tap alone holds nine tenths of the energy.
    """

    layers: list[LayerKernels]
    aliasing: list[Tensor]
    gain: list[Tensor]
    labels: list[Tensor]
    centred: list[Tensor]

    @classmethod
    def of(cls, layers: Sequence[LayerKernels], threshold: float = THRESHOLDS[0]) -> Depthwise:
        """Measure the depthwise ones among these layers."""
        chosen = [layer for layer in layers if layer.depthwise]
        passed = low_pass(chosen)
        classes = [classify_layer(layer, threshold=threshold) for layer in chosen]
        identity = CLASSES.index("identity")
        centred = [found.similarity[:, identity].square() >= CENTRE for found in classes]
        return cls(chosen, [p.aliasing for p in passed], [p.gain for p in passed], [c.labels for c in classes], centred)

    def pick(self, values: Sequence[Tensor], strided: bool) -> list[Tensor]:
        """The values of the strided layers, or of the others."""
        return [v for v, layer in zip(values, self.layers, strict=True) if layer.strided == strided]

    def shares(self, name: str) -> list[float]:
        """The part of one class in each stride-1 layer."""
        return [share([labels], name) for labels in self.pick(self.labels, False)]

    def thirds(self, centred: bool = False) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Which kernels are like the identity, in the first, middle and last third of the stride-1 layers."""
        identity = CLASSES.index("identity")
        alike = self.centred if centred else [labels == identity for labels in self.labels]
        layers = self.pick(alike, False)
        parts: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        for index, layer in enumerate(layers):
            parts[int(3 * (index + 0.5) / len(layers))].append(layer)
        return parts

    def table(self) -> list[dict[str, Any]]:
        """One row per layer."""
        rows = []
        columns = (self.layers, self.aliasing, self.gain, self.labels, self.centred)
        for layer, aliasing, gain, labels, centred in zip(*columns, strict=True):
            row: dict[str, Any] = {"layer": layer.name, "kernels": len(labels), "stride": layer.stride[0]}
            row |= {"aliasing": float(aliasing.nanmean()), "dc_gain": float(gain.nanmean())}
            row["zero_kernels"] = int(aliasing.isnan().sum())
            rows.append(row | {name: share([labels], name) for name in CLASSES} | {"centred": part([centred])})
        return rows


def part(alike: Sequence[Tensor]) -> float:
    """The share of true values among all kernels of these layers."""
    return float(torch.cat(list(alike)).double().mean())


def share(labels: Sequence[Tensor], name: str) -> float:
    """The share of one class among the kernels of these layers."""
    return part([layer == CLASSES.index(name) for layer in labels])


def middle_excess(thirds: Sequence[Sequence[Tensor]]) -> float:
    """The part of the middle third minus the larger of the other two."""
    first, middle, last = (part(layers) for layers in thirds)
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
        "identity_middle": part(found.thirds()[1]),
        "identity_excess": middle_excess(found.thirds()),
        "centre_middle": part(found.thirds(centred=True)[1]),
        "centre_excess": middle_excess(found.thirds(centred=True)),
        "edge_most": share(found.pick(found.labels, False), "edge"),
        "edge_falls": spearman(found.shares("edge")),
        "gaussian_grows": spearman(found.shares("gaussian")),
    }


def numbers_of_one(found: Depthwise) -> dict[str, Number]:
    """The numbers of one given network, with intervals over its kernels or tests over its layers."""

    def part_of(name: str, layers: Sequence[Tensor]) -> Number:
        return over_kernels(layers, lambda drawn: share(drawn, name))

    def excess(thirds: Sequence[Sequence[Tensor]]) -> Number:
        first, second = len(thirds[0]), len(thirds[0]) + len(thirds[1])
        layers = [layer for third in thirds for layer in third]
        return over_kernels(layers, lambda drawn: middle_excess((drawn[:first], drawn[first:second], drawn[second:])))

    identity, centred = found.thirds(), found.thirds(centred=True)
    means = [layer_means(found.pick(found.aliasing, strided)) for strided in (True, False)]
    return {
        "aliasing": between_layers(*means),
        "gaussian_strided": part_of("gaussian", found.pick(found.labels, True)),
        "gaussian_last": part_of("gaussian", found.labels[-1:]),
        "identity_middle": over_kernels(identity[1], part),
        "identity_excess": excess(identity),
        "centre_middle": over_kernels(centred[1], part),
        "centre_excess": excess(centred),
        "edge_most": part_of("edge", found.pick(found.labels, False)),
        "edge_falls": trend(found.shares("edge")),
        "gaussian_grows": trend(found.shares("gaussian")),
    }


def numbers_of_seeds(trained: Sequence[Depthwise], started: Sequence[Depthwise]) -> dict[str, Number]:
    """The numbers of networks trained from several seeds, with intervals over the seeds; and the change by training."""
    each = [statistics(found) for found in trained]
    numbers = {name: over_seeds([values[name] for values in each]) for name in each[0]}
    changes = []
    for after, before in zip(trained, started, strict=True):
        means = [layer_means(found.pick(found.aliasing, True)) for found in (after, before)]
        changes.append(sum(means[0]) / len(means[0]) - sum(means[1]) / len(means[1]))
    return numbers | {"aliasing_learned": over_seeds(changes)}
