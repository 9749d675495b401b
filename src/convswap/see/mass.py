"""Kernel mass ratio and kernel components by stage: how large do kernels really want to be?

The measures of the NIFF paper (arXiv:2307.10001), of `convswap.measure.kernel_mass`, applied to any network. All
kernels of one size in a stage are pooled, without those of strided layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..measure.kernel_mass import KernelComponents, KernelMass, kernel_components, kernel_mass
from .kernels import LayerKernels
from .lowpass import evenly, spread


@dataclass(frozen=True)
class StageMass:
    """The kernels of one size in one stage, taken together.

    Attributes:
        stage: its number, None where it is not known.
        size: height and width of the kernels.
        layers: the layers that hold them.
        kernels: how many were measured.
        mass: the part of the magnitude and energy within centred windows (odd sides).
        components: principal components; None for fewer than two kernels.
    """

    stage: int | None
    size: tuple[int, int]
    layers: tuple[str, ...]
    kernels: int
    mass: KernelMass
    components: KernelComponents | None


def mass_by_stage(
    layers: Sequence[LayerKernels], *, components: int = 7, limit: int = 8192, strided: bool = False
) -> list[StageMass]:
    """Kernel mass and components for each stage and kernel size.

    Args:
        layers: from `layer_kernels`.
        components: at most this many principal components.
        limit: at most this many kernels of a stage, evenly spaced over them.
        strided: whether to include strided layers.
    """
    groups: dict[tuple[int | None, tuple[int, int]], list[LayerKernels]] = {}
    for layer in layers:
        if strided or not layer.strided:
            wide = spread(layer.kernels[:1], layer.dilation).shape[-2:]
            groups.setdefault((layer.stage, (wide[0], wide[1])), []).append(layer)
    found = []
    for (stage, size), members in groups.items():
        together = torch.cat([spread(layer.kernels, layer.dilation) for layer in members])
        kernels = evenly(together, limit)
        most = min(components, len(kernels), kernels[0].numel())
        parts = kernel_components(kernels, most) if len(kernels) > 1 else None
        names = tuple(layer.name for layer in members)
        found.append(StageMass(stage, size, names, len(kernels), kernel_mass(kernels), parts))
    return found
