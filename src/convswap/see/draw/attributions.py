"""Pictures of attributions: which pixels support a class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..attribution import Attribution, GradCam
from .picture import MAGNITUDE, SIGNED, Picture, bare, new_figure

NAMES = {"guided": "guided backpropagation", "deconvolution": "deconvolution", "gradient": "plain gradient"}


def attribution_picture(
    picture: Tensor, attributions: Sequence[Attribution], cam: GradCam | None, index: int, label: str
) -> Picture:
    """One image (C, H, W) in 0 .. 1, its Grad-CAM over it, and its attributions.

    Args:
        picture: the image.
        attributions: of a batch that holds it.
        cam: of the same batch.
        index: its place in the batch.
        label: the name of the class asked for.
    """
    names = ["image", *(["Grad-CAM"] if cam else []), *(NAMES[a.method] for a in attributions)]

    def draw() -> Any:
        columns = 2 if len(names) in (2, 4) else 3
        rows = -(-len(names) // columns)
        figure, axes = new_figure((1.35 if columns == 3 else 1.95) * rows, rows, columns)
        for ax in axes.flat:
            bare(ax)
        shown = axes.flat
        _show(shown[0], picture)
        if cam:
            _show(shown[1], picture, gray=True)
            heat = cam.at((picture.shape[1], picture.shape[2]))[index].cpu()
            shown[1].imshow((heat / heat.max().clamp_min(1e-12)).numpy(), cmap=MAGNITUDE, alpha=0.55, vmin=0, vmax=1)
        for ax, attribution in zip(list(shown)[len(names) - len(attributions) :], attributions, strict=False):
            value = attribution.values[index].mean(0).cpu()
            limit = float(value.abs().quantile(0.995).clamp_min(1e-30))
            ax.imshow(-value.numpy(), cmap=SIGNED, vmin=-limit, vmax=limit)
        for ax, name in zip(axes.flat, names, strict=False):
            ax.set_title(name.replace(" backpropagation", "\nbackpropagation"), fontsize=7.5)
        return figure

    alt = f"Image {index + 1} and the pixels that support {label}: {', '.join(names[1:])}."
    if cam:
        heat = cam.at((picture.shape[1], picture.shape[2]))[index]
        row, column = divmod(int(heat.flatten().argmax()), heat.shape[1])
        alt += f" Grad-CAM is largest at row {row}, column {column} of {heat.shape[0]} by {heat.shape[1]}."
    return Picture(f"Image {index + 1}: {label}", alt, draw, photographs=True)


def _show(ax: Any, picture: Tensor, gray: bool = False) -> None:
    image = picture.detach().cpu().clamp(0, 1)
    if gray or image.shape[0] != 3:
        ax.imshow(image.mean(0).numpy(), cmap="gray", vmin=0, vmax=1)
    else:
        ax.imshow(torch.movedim(image, 0, 2).numpy())
