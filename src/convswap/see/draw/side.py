"""Pictures of several models side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ...palette import series_color
from ..atlas import Atlas
from ..classes import CLASSES, StageClasses
from ..field import ReceptiveField
from ..lowpass import LowPass, aliasing_energy
from ..similarity import Similarity
from .fields import describe, draw_field
from .picture import (
    CLASS_LOOKS,
    GRID,
    INK,
    MAGNITUDE,
    MARKERS,
    MUTED,
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

Row = tuple[str, bool]
"""A label, and whether it heads the rows that follow."""


def colors_of(names: Sequence[str]) -> dict[str, str]:
    """A colour for each model; the first model is a muted grey."""
    return {name: series_color(index) for index, name in enumerate(names)}


def classes_side_picture(models: Mapping[str, Sequence[StageClasses]]) -> Picture:
    """The shares of the kernel classes: for each stage and role, one bar per model."""
    found = {name: {_place(s): s for s in stages} for name, stages in models.items()}
    order = {_place(s): (s.stage is None, s.stage or 0) for stages in models.values() for s in stages}
    places = sorted(order, key=lambda place: order[place])

    def draw() -> Any:
        rows, ticks = _grouped(places, {place: [n for n in found if place in found[n]] for place in places})
        figure, axes = new_figure(0.75 + 0.13 * len(rows))
        ax, left = axes[0, 0], [0.0] * len(ticks)
        bars = [(row, found[name][place]) for row, place, name in ticks]
        for label in CLASSES:
            values = [100 * stage.shares[label] for _, stage in bars]
            color, hatch = CLASS_LOOKS[label]
            at = [row for row, _ in bars]
            ax.barh(at, values, 0.8, left=left, color=color, hatch=hatch, edgecolor="white", label=label, lw=0.4)
            left = [a + b for a, b in zip(left, values, strict=True)]
        _label_rows(ax, rows)
        ax.set(xlim=(0, 100), xlabel="% of kernels")
        legend(figure, columns=4)
        return figure

    parts = [
        f"{name}, {place}: " + ", ".join(f"{c} {percent(s.shares[c])}" for c in CLASSES if s.counts[c])
        for name, stages in found.items()
        for place, s in stages.items()
    ]
    note = "Effective kernels without sign and scale, by the nearest family; other: no cosine of at least 0.8."
    alt = f"Shares of kernel classes. {'; '.join(parts)}."
    return Picture("Kernel classes by stage", alt, draw, note=note)


def low_pass_side_picture(models: Mapping[str, Sequence[LowPass]], colors: Mapping[str, str]) -> Picture:
    """Energy above the new Nyquist frequency and DC gain: means by role and model, with the layers' values in pale."""
    roles = [role for role in ROLE_LOOKS if any(low.role == role for layers in models.values() for low in layers)]
    means = {
        (role, name): [(low.mean_aliasing, low.mean_gain) for low in layers if low.role == role]
        for role in roles
        for name, layers in models.items()
    }

    def draw() -> Any:
        rows, ticks = _grouped(roles, {role: [n for n in models if means[role, n]] for role in roles})
        figure, axes = new_figure(0.6 + 0.15 * len(rows), 1, 2, sharey=True)
        titles = ("energy above new Nyquist", "DC gain")
        for index, (ax, title) in enumerate(zip(axes[0], titles, strict=True)):
            for row, role, name in ticks:
                values = [pair[index] for pair in means[role, name]]
                ax.plot(values, [row] * len(values), "|", color=colors[name], ms=5, alpha=0.45)
                ax.plot(sum(values) / len(values), row, ROLE_LOOKS[role][1], color=colors[name], ms=4.5)
            ax.set(xlim=(0, 1.02), xticks=(0, 0.5, 1), xlabel=title)
            ax.grid(axis="x", color=GRID, lw=0.5)
            ax.set_axisbelow(True)
        axes[0, 0].axvline(float(aliasing_energy(torch.ones(1, 1), 2)), color=MUTED, lw=0.8, ls=":", zorder=0)
        _label_rows(axes[0, 0], rows)
        return figure

    spoken = [
        f"{role}, {name}: energy {sum(a for a, _ in v) / len(v):.2f}, gain {sum(g for _, g in v) / len(v):.2f}"
        for (role, name), v in means.items()
        if v
    ]
    alt = f"Mean energy above the new Nyquist frequency (the identity has 0.77) and DC gain. {'; '.join(spoken)}."
    note = (
        "A layer that smooths before it drops pixels is low at the left and near 1 at the right. Marks: means, "
        "strokes: layers, dotted: the identity. Layers of stride 1 as if they had stride 2."
    )
    return Picture("Low-pass filtering", alt, draw, note=note)


def fields_side_picture(fields: Mapping[str, ReceptiveField]) -> Picture:
    """The effective receptive field of each model's last map, log normalised, with the 50 % and 99 % squares."""

    def paint(ax: Any, field: ReceptiveField) -> None:
        draw_field(ax, field, "log_normalised")
        sides = [field.square(part, "log_normalised").side for part in (0.5, 0.99)]
        ax.set_xlabel(f"50 %: {sides[0]} px, 99 %: {sides[1]}", fontsize=7)

    alt = " ".join(describe(name, field) for name, field in fields.items())
    note = "Magnitude of the middle unit's gradient, log10(A / max A + 1). Solid: 50 % of it, dashed: 99 %."
    title = "Effective receptive field of the last map"
    return Picture(title, alt, lambda: _tiles(fields, paint, 0.32), note=note)


def similarity_side_picture(between: Mapping[str, Similarity], first: str) -> Picture:
    """For each model the matrix of CKA with the first model: the first one's layers down, the other's across."""

    def paint(ax: Any, similarity: Similarity) -> None:
        bare(ax)
        ax.imshow(similarity.values.numpy(), cmap=MAGNITUDE, vmin=0, vmax=1, aspect="auto")
        ax.set_xlabel(f"same depth {similarity.matched:.2f}", fontsize=7)

    def draw() -> Any:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        figure = _tiles(between, paint, 0.32)
        bar = figure.colorbar(
            ScalarMappable(Normalize(0, 1), MAGNITUDE), ax=figure.axes, location="bottom", aspect=40, fraction=0.04
        )
        bar.ax.tick_params(labelsize=7, length=2)
        bar.outline.set_visible(False)
        return figure

    spoken = "; ".join(
        f"{name}: {s.matched:.2f} between layers of the same depth, {float(s.values[-1, -1]):.2f} at the end"
        for name, s in between.items()
    )
    one = next(iter(between.values()))
    alt = f"CKA (unbiased, minibatches of {one.batch_size}, {one.samples} images) with {first}. {spoken}."
    note = f"Unbiased linear CKA: layers of {first} from top to bottom, of the other network from left to right."
    return Picture(f"Similarity with {first}, layer by layer (CKA)", alt, draw, note=note)


def atlases_side_picture(models: Mapping[str, Sequence[Atlas]]) -> Picture:
    """One row of sheets per model: its first and its last strided or depthwise layer."""

    def draw() -> Any:
        columns = max(len(sheets) for sheets in models.values())
        each = WIDTH / columns
        tall = [max(each * a.sheet.shape[0] / a.sheet.shape[1] for a in sheets) + 0.28 for sheets in models.values()]
        figure, axes = new_figure(sum(tall), len(models), columns, gridspec_kw={"height_ratios": tall})
        for ax in axes.flat:
            bare(ax)
        for row, (name, sheets) in zip(axes, models.items(), strict=True):
            for ax, atlas in zip(row, sheets, strict=False):
                ax.imshow(-atlas.sheet.numpy(), cmap=SIGNED, vmin=-1, vmax=1, interpolation="nearest")
                ax.set_title(f"{cut(name, 16)}\n{cut(atlas.layer.name, 28)}", fontsize=7, loc="left", color=INK)
        return figure

    spoken = "; ".join(
        f"{name}, {a.layer.name} ({a.layer.shape}): "
        + ", ".join(f"{label} {percent(share)}" for label, share in a.classes.shares.items() if share)
        for name, sheets in models.items()
        for a in sheets
    )
    note = "Up to 98 of each, every one in its own scale, sorted by class: orange positive, purple negative."
    title = "Kernels of the first and last strided or depthwise layer"
    return Picture(title, f"Kernels. {spoken}.", draw, note=note)


def depth_picture(
    models: Mapping[str, Mapping[str, float]], colors: Mapping[str, str], title: str, y: str, note: str
) -> Picture:
    """A number of each layer against its depth, one line per model."""

    def draw() -> Any:
        figure, axes = new_figure(2.3 + 0.12 * (len(models) // 3))
        ax = axes[0, 0]
        for index, (name, layers) in enumerate(models.items()):
            at = torch.linspace(0, 1, len(layers)).tolist() if len(layers) > 1 else [0.5]
            look = {"color": colors[name], "marker": MARKERS[index % len(MARKERS)], "ms": 3.5, "lw": 1.2}
            ax.plot(at, list(layers.values()), label=cut(name, 16), **look)
        ax.set(xlim=(-0.02, 1.02), ylim=(0, 1.02), xticks=(0, 0.5, 1), ylabel=y)
        ax.set_xticklabels(["first", "depth", "last layer"], ha="center")
        ax.get_xticklabels()[0].set_ha("left")
        ax.get_xticklabels()[-1].set_ha("right")
        legend(figure, columns=3)
        return figure

    spoken = ", ".join(f"{name} {sum(v.values()) / len(v):.2f}" for name, v in models.items())
    return Picture(title, f"{y[0].upper()}{y[1:]} by depth; mean over the layers: {spoken}.", draw, note=note)


def _place(stage: StageClasses) -> str:
    return f"{'one pixel' if stage.stage is None else f'stage {stage.stage + 1}'}, {stage.role}"


def _grouped(
    groups: Sequence[str], members: Mapping[str, Sequence[str]]
) -> tuple[list[Row], list[tuple[int, str, str]]]:
    """Rows of a chart: each group's head, then its members; and the row, group and name of each member."""
    rows: list[Row] = []
    ticks = []
    for group in groups:
        rows.append((group, True))
        for name in members[group]:
            ticks.append((len(rows), group, name))
            rows.append((name, False))
    return rows, ticks


def _label_rows(ax: Any, rows: Sequence[Row]) -> None:
    ax.set_yticks(range(len(rows)), [cut(label, 22) for label, _ in rows])
    for tick, (_, head) in zip(ax.get_yticklabels(), rows, strict=True):
        tick.set(fontsize=7, color=INK if head else MUTED, fontweight="bold" if head else "normal")
    ax.set_ylim(len(rows) - 0.4, -0.6)


def _tiles(models: Mapping[str, Any], paint: Callable[[Any, Any], None], label: float) -> Any:
    """A figure of square pictures in up to three columns, each with its model's name."""
    columns = 2 if len(models) in (1, 2, 4) else 3
    rows = -(-len(models) // columns)
    figure, axes = new_figure((WIDTH / columns + label) * rows, rows, columns)
    for ax in axes.flat:
        bare(ax)
    for ax, (name, value) in zip(axes.flat, models.items(), strict=False):
        paint(ax, value)
        ax.set_title(cut(name, 18), fontsize=7.5, loc="left", color=INK)
    for ax in list(axes.flat)[len(models) :]:
        ax.set_axis_off()
    return figure
