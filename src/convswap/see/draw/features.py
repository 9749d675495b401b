"""Pictures of feature maps: spectra, duplicates, redundancy, similarity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..reuse import Duplicates, Redundancy
from ..similarity import Similarity
from ..spectra import MapSpectrum
from .picture import GRID, MAGNITUDE, Picture, cut, new_figure


def map_spectra_picture(spectra: Mapping[str, MapSpectrum]) -> Picture:
    """Relative log amplitude by frequency, one line per layer, from dark (early) to light (late)."""

    def draw() -> Any:
        import torch
        from matplotlib import colormaps
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        figure, axes = new_figure(2.6)
        ax = axes[0, 0]
        colors = colormaps[MAGNITUDE](torch.linspace(0, 0.9, len(spectra)).numpy())
        for color, spectrum in zip(colors, spectra.values(), strict=True):
            ax.plot(spectrum.frequency.numpy(), spectrum.log_amplitude.numpy(), color=color, lw=1.1)
        ax.set(xlim=(0, 0.5), xlabel="frequency, cycles a pixel of the map", ylabel="log10 amplitude, relative")
        bar = figure.colorbar(ScalarMappable(Normalize(0, 1 / 0.9), MAGNITUDE), ax=ax, ticks=[0, 1], shrink=0.8)
        bar.ax.set_ylim(0, 1)
        bar.ax.set_yticklabels(["first", "last"], fontsize=7.5)
        bar.outline.set_visible(False)
        return figure

    names = list(spectra)
    ends = [f"{name} {spectra[name].at_half:.1f}" for name in dict.fromkeys((names[0], names[-1]))]
    alt = (
        f"Log amplitude of the maps of {len(names)} layers relative to frequency 0; at half a cycle: {', '.join(ends)}."
    )
    return Picture("Spectra of feature maps", alt, draw)


def duplicates_picture(pairs: Sequence[Duplicates]) -> Picture:
    """The mean best correlation of the maps of each layer with those of the next."""

    def draw() -> Any:
        figure, axes = new_figure(0.6 + 0.16 * len(pairs))
        ax = axes[0, 0]
        means = [pair.mean for pair in pairs]
        ax.hlines(range(len(pairs)), 0, means, color=GRID, lw=1)
        ax.plot(means, range(len(pairs)), "o", color="#0072b2", ms=4)
        ax.set_yticks(range(len(pairs)), [cut(pair.first) for pair in pairs])
        ax.set(xlim=(0, 1.02), ylim=(len(pairs) - 0.4, -0.6), xlabel="mean best |correlation| with the next layer")
        return figure

    best = max(pairs, key=lambda pair: pair.mean)
    mean = sum(pair.mean for pair in pairs) / len(pairs)
    alt = (
        f"For {len(pairs)} pairs of adjacent layers the mean over channels of the best correlation: mean {mean:.2f}, "
        f"largest {best.mean:.2f} from {best.first} to {best.second}."
    )
    return Picture("Maps that come back in the next layer", alt, draw)


def redundancy_picture(layers: Mapping[str, Redundancy]) -> Picture:
    """The mean |cos| between the channels of each layer."""
    known = {name: r for name, r in layers.items() if r.mean == r.mean}

    def draw() -> Any:
        figure, axes = new_figure(0.6 + 0.16 * len(known))
        ax = axes[0, 0]
        means = [r.mean for r in known.values()]
        ax.hlines(range(len(known)), 0, means, color=GRID, lw=1)
        ax.plot(means, range(len(known)), "D", color="#d55e00", ms=4)
        ax.set_yticks(range(len(known)), [cut(name) for name in known])
        ax.set(xlim=(0, 1.02), ylim=(len(known) - 0.4, -0.6), xlabel="mean |cos| between channels")
        return figure

    most = max(known, key=lambda name: known[name].mean)
    mean = sum(r.mean for r in known.values()) / len(known)
    dead = sum(r.dead for r in layers.values())
    alt = (
        f"Mean cosine between channels of {len(known)} layers: mean {mean:.2f}, largest {known[most].mean:.2f} in "
        f"{most}; {dead} channels are always zero."
    )
    return Picture("Channels that say the same", alt, draw)


def similarity_picture(similarity: Similarity, title: str = "Similarity of layers") -> Picture:
    """The matrix of unbiased minibatch CKA."""

    def draw() -> Any:
        figure, axes = new_figure(3.5)
        ax = axes[0, 0]
        image = ax.imshow(similarity.values.numpy(), cmap=MAGNITUDE, vmin=0, vmax=1)
        for axis, names, turn in ((ax.xaxis, similarity.columns, 90), (ax.yaxis, similarity.rows, 0)):
            axis.set_ticks(range(len(names)), [cut(name, 18) for name in names], rotation=turn, fontsize=6.5)
        for spine in ax.spines.values():
            spine.set_visible(False)
        bar = figure.colorbar(image, ax=ax, shrink=0.6)
        bar.ax.tick_params(labelsize=7)
        bar.outline.set_visible(False)
        return figure

    values = similarity.values
    low = float(values[~values.isnan()].min())
    alt = (
        f"CKA (unbiased, minibatches of {similarity.batch_size}, {similarity.samples} images) of "
        f"{len(similarity.rows)} by {len(similarity.columns)} layers; lowest {low:.2f}; "
        f"first to last {float(values[0, -1]):.2f}."
    )
    return Picture(title, alt, draw)
