"""Pictures of kernels: the atlas, their classes, and how much of a low-pass filter they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..atlas import Atlas
from ..classes import CLASSES, StageClasses
from ..lowpass import LowPass, aliasing_energy
from .picture import CLASS_LOOKS, MUTED, ROLE_LOOKS, SIGNED, WIDTH, Picture, bare, cut, legend, new_figure, percent


def atlas_picture(atlas: Atlas) -> Picture:
    """The sheet of a layer: purple negative, orange positive, sorted by class, each kernel in its own scale."""
    layer, total = atlas.layer, len(atlas.classes.labels)
    shown = f"{total:,} kernels" if atlas.shown == total else f"{atlas.shown:,} of {total:,} kernels"
    shares = ", ".join(f"{name} {percent(share)}" for name, share in atlas.classes.shares.items() if share)

    def draw() -> Any:
        height, width = atlas.sheet.shape
        figure, axes = new_figure(min(max(WIDTH * height / width, 0.3), 4.5))
        axes[0, 0].imshow(-atlas.sheet.numpy(), cmap=SIGNED, vmin=-1, vmax=1, interpolation="nearest")
        bare(axes[0, 0])
        return figure

    alt = f"Sheet of {shown} of layer {layer.name} ({layer.shape}), sorted by class: {shares}."
    return Picture(f"{layer.name}: {layer.shape}", alt, draw)


def classes_picture(stages: Sequence[StageClasses]) -> Picture:
    """The shares of the classes for each stage and role as stacked bars."""
    labels = [f"{'' if s.stage is None else f'stage {s.stage + 1}, '}{s.role}" for s in stages]

    def draw() -> Any:
        figure, axes = new_figure(0.7 + 0.32 * len(stages))
        ax, left = axes[0, 0], [0.0] * len(stages)
        for name in CLASSES:
            values = [100 * s.shares[name] for s in stages]
            color, hatch = CLASS_LOOKS[name]
            ax.barh(labels, values, 0.72, left=left, color=color, hatch=hatch, edgecolor="white", label=name, lw=0.6)
            left = [a + b for a, b in zip(left, values, strict=True)]
        for row, s in enumerate(stages):
            ax.text(101, row, f"{sum(s.counts.values()):,}", va="center", fontsize=7, color=MUTED)
        ax.invert_yaxis()
        ax.set(xlim=(0, 100), xlabel="% of kernels; at the right how many")
        legend(figure, columns=4)
        return figure

    parts = [
        f"{label}: " + ", ".join(f"{name} {percent(s.shares[name])}" for name in CLASSES if s.counts[name])
        for label, s in zip(labels, stages, strict=True)
    ]
    return Picture("Kernel classes by stage", "Shares of kernel classes. " + "; ".join(parts) + ".", draw)


def low_pass_picture(layers: Sequence[LowPass], measure: str = "aliasing") -> Picture:
    """`aliasing` (energy above the new Nyquist) or `gain` (DC gain) of each layer: mean and quartiles."""
    titles = {"aliasing": "Energy above the new Nyquist frequency", "gain": "DC gain"}
    values = [getattr(layer, measure) for layer in layers]
    means = [float(v.nanmean()) for v in values]

    def draw() -> Any:
        figure, axes = new_figure(0.75 + 0.16 * len(layers))
        ax = axes[0, 0]
        names = [cut(layer.name) for layer in layers]
        for role, (color, marker) in ROLE_LOOKS.items():
            rows = [i for i, layer in enumerate(layers) if layer.role == role]
            if rows:
                low, high = ([float(values[i].nanquantile(q)) for i in rows] for q in (0.25, 0.75))
                ax.hlines(rows, low, high, color=color, lw=1.2, alpha=0.6)
                ax.plot([means[i] for i in rows], rows, marker, color=color, ms=4, label=role)
        if measure == "aliasing":
            identity = float(aliasing_energy(torch.ones(1, 1), 2))
            ax.axvline(identity, color=MUTED, lw=0.8, ls=":", zorder=0)
            ax.text(identity, -0.8, "identity ", fontsize=7, color=MUTED, ha="right", va="center")
        ax.set_yticks(range(len(names)), names)
        ax.set(xlim=(0, 1.02), ylim=(len(names) - 0.4, -1.2), xlabel="mean and quartiles over the kernels")
        legend(figure)
        return figure

    by_role = {role: [m for m, layer in zip(means, layers, strict=True) if layer.role == role] for role in ROLE_LOOKS}
    spoken = ", ".join(f"{role} {sum(v) / len(v):.2f}" for role, v in by_role.items() if v)
    return Picture(titles[measure], f"{titles[measure]} by layer; mean over the layers: {spoken}.", draw)
