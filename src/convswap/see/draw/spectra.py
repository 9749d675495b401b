"""Pictures of spectra, kernel mass and kernel components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..mass import StageMass
from ..spectra import KernelSpectrum
from .picture import (
    GRID,
    MAGNITUDE,
    MARKERS,
    ROLE_LOOKS,
    SIGNED,
    WIDTH,
    Picture,
    bare,
    cut,
    legend,
    new_figure,
    percent,
)


def radial_picture(spectra: Mapping[str, KernelSpectrum], roles: Mapping[str, str]) -> Picture:
    """Mean power of kernels by frequency: a thin line for each layer, a thick one for each role."""
    by_role = {role: [s for name, s in spectra.items() if roles[name] == role] for role in ROLE_LOOKS}
    present = {role: members for role, members in by_role.items() if members}

    def draw() -> Any:
        figure, axes = new_figure(2.6)
        ax = axes[0, 0]
        for role, members in present.items():
            color, marker = ROLE_LOOKS[role]
            for spectrum in members:
                ax.plot(spectrum.frequency.numpy(), spectrum.radial.numpy(), color=color, lw=0.6, alpha=0.35)
            mean = torch.stack([s.radial for s in members]).mean(0).numpy()
            at = members[0].frequency.numpy()
            ax.plot(at, mean, color=color, lw=2, marker=marker, ms=4, markevery=8, label=role)
        ax.set(xlim=(0, 0.5), ylim=(0, None), xlabel="frequency, cycles a pixel", ylabel="power")
        ax.axvline(0.25, color=GRID, lw=1, zorder=0)
        legend(figure)
        return figure

    spoken = ", ".join(
        f"{role} {sum(s.centroid for s in members) / len(members):.2f}" for role, members in present.items()
    )
    return Picture("Spectra of kernels", f"Power of kernels by frequency; mean frequency: {spoken}.", draw)


def power_picture(spectra: Mapping[str, KernelSpectrum]) -> Picture:
    """The two-dimensional mean power of layers, frequency 0 in the middle."""

    def draw() -> Any:
        columns = min(3, len(spectra))
        rows = -(-len(spectra) // columns)
        figure, axes = new_figure((0.15 + WIDTH / columns) * rows, rows, columns)
        for ax in axes.flat:
            bare(ax)
        for ax, (name, spectrum) in zip(axes.flat, spectra.items(), strict=False):
            ax.imshow(spectrum.power.numpy(), cmap=MAGNITUDE, extent=(-0.5, 0.5, -0.5, 0.5))
            ax.set_title(cut(name, 18), fontsize=7)
        return figure

    spoken = "; ".join(f"{name} {percent(s.high)} above a quarter cycle a pixel" for name, s in spectra.items())
    return Picture("Power by direction and frequency", f"Mean power spectra of kernels: {spoken}.", draw)


def mass_picture(stages: Sequence[StageMass]) -> Picture:
    """The part of the kernels' magnitude within centred windows: mean, and one standard deviation around it."""
    wide = [s for s in stages if len(s.mass.sizes) > 1]
    labels = [f"{_stage(s)}{s.size[0]}x{s.size[1]}, {s.kernels:,}" for s in wide]

    def draw() -> Any:
        from matplotlib import colormaps

        figure, axes = new_figure(2.4 + 0.1 * len(wide))
        ax = axes[0, 0]
        colors = colormaps["cividis"](torch.linspace(0, 0.9, max(len(wide), 1)).numpy())
        for index, (s, label) in enumerate(zip(wide, labels, strict=True)):
            mean = s.mass.mass.nanmean(0)
            std = (s.mass.mass - mean).square().nanmean(0).sqrt()
            low, high = (mean - std).numpy(), (mean + std).numpy()
            ax.fill_between(s.mass.sizes, low, high, color=colors[index], alpha=0.15, lw=0)
            look = {"color": colors[index], "marker": MARKERS[index % len(MARKERS)], "ms": 4, "lw": 1.5}
            ax.plot(s.mass.sizes, mean.numpy(), label=label, **look)
        ax.set(ylim=(0, 1.05), xlabel="side of the window, pixels", ylabel="part of the magnitude")
        ax.set_xticks(max((s.mass.sizes for s in wide), key=len)[:8])
        legend(figure)
        return figure

    spoken = "; ".join(
        f"{label} kernels: {percent(s.mass.mean(1)[0])} in the middle pixel"
        for s, label in zip(wide, labels, strict=True)
    )
    return Picture("Kernel mass ratio", f"Part of the magnitude within centred windows. {spoken}.", draw)


def _stage(s: StageMass) -> str:
    return "" if s.stage is None else f"stage {s.stage + 1}: "


def components_picture(stages: Sequence[StageMass]) -> Picture:
    """The principal components of the kernels of each stage with the part of the variance each explains."""
    shown = [s for s in stages if s.components is not None]

    def draw() -> Any:
        most = max(len(s.components.explained) for s in shown if s.components is not None)
        figure, axes = new_figure(0.78 * len(shown) + 0.1, len(shown), most)
        for ax in axes.flat:
            bare(ax)
        for row, s in zip(axes, shown, strict=True):
            assert s.components is not None
            row[0].set_ylabel(f"{_stage(s).rstrip(': ')}\n{s.size[0]}x{s.size[1]}", fontsize=7)
            for ax, component, part in zip(row, s.components.components, s.components.explained, strict=False):
                limit = float(component.abs().max())
                ax.imshow(-component.numpy(), cmap=SIGNED, vmin=-limit, vmax=limit, interpolation="nearest")
                ax.set_title(percent(float(part)), fontsize=7, pad=2)
        return figure

    spoken = "; ".join(
        f"{_stage(s)}{s.size[0]}x{s.size[1]}: the first explains {percent(float(s.components.explained[0]))}"
        for s in shown
        if s.components is not None
    )
    return Picture("Principal components of kernels", f"Components and the variance they explain. {spoken}.", draw)
