"""Effective receptive fields: which pixels of the image a unit in the middle of a layer really depends on.

The measure of Luo et al. (2016) in the form of the RepLKNet paper (arXiv:2203.06717): s = sum over channels of
relu(F[:, :, h // 2, w // 2]) of a layer's output F; the positive part of ds / dimage, summed over colours and averaged
over images, is the contribution map A. `gradient="absolute"` is the original form: without the relu, magnitudes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import UsageError, check_choice
from ..surgery.modes import evaluating
from ..surgery.sites import refuse_wrappers
from .layers import last_map, output_of

PARTS = (0.2, 0.3, 0.5, 0.99)
TRANSFORMS = ("log", "raw", "log_normalised")


@dataclass(frozen=True)
class Square:
    """The smallest centred square that holds more than a part of the contributions.

    Attributes:
        side: in pixels: odd and at least 3, or the side of the whole image. It may exceed a shorter other side.
        area: the part of the image it covers.
    """

    side: int
    area: float


@dataclass(frozen=True)
class ReceptiveField:
    """The effective receptive field of one layer.

    Attributes:
        layer: its path.
        contribution: (H, W), the mean contribution map A.
        images: how many images it was averaged over.
        dead: images on which no channel of the middle unit was active; they count as maps of zeros.
        skipped: images that gave NaN; they do not count.
        gradient: `"positive"` or `"absolute"`.
    """

    layer: str
    contribution: Tensor
    images: int
    dead: int
    skipped: int
    gradient: str

    def values(self, transform: str = "log") -> Tensor:
        """The map to look at, largest value 1.

        Args:
            transform: `"log"`, log10(A + 1), as published: it depends on the scale of the gradients, so compare only
                networks of similar scale; `"raw"`, A itself; `"log_normalised"`, log10(A / max A + 1).

        Raises:
            ValueError: an unknown transform.
        """
        check_choice("transform", transform, TRANSFORMS)
        a = self.contribution
        b = a if transform == "raw" else torch.log10((a if transform == "log" else a / a.max()) + 1)
        return b / b.max()

    def square(self, part: float, transform: str = "log") -> Square:
        """The smallest centred square of side 3, 5, .. whose values sum to more than a part of all.

        The centre is (H // 2, W // 2), half a pixel off the middle of an even side. If no square does, the whole image.

        Raises:
            ValueError: a part outside 0 .. 1, an unknown transform.
        """
        if not 0 < part < 1:
            raise UsageError(f"part={part!r} is not allowed; give a number between 0 and 1")
        values = self.values(transform)
        height, width = values.shape
        wanted = part * values.sum()
        for i in range(1, max(height, width) // 2 + 1):
            rows, columns = (slice(max(n // 2 - i, 0), n // 2 + i + 1) for n in (height, width))
            if values[rows, columns].sum() > wanted:
                side = min(2 * i + 1, max(height, width))
                return Square(side, min(side, height) / height * (min(side, width) / width))
        return Square(max(height, width), 1.0)

    def squares(self, transform: str = "log") -> dict[float, Square]:
        """The squares that hold 20, 30, 50 and 99 %."""
        return {part: self.square(part, transform) for part in PARTS}

    def size(self, level: float = 0.0455) -> float:
        """Side of the field as Luo et al. define it: root of the number of pixels above `level` times the centre's."""
        height, width = self.contribution.shape
        centre = self.contribution[height // 2, width // 2]
        return float((self.contribution > level * centre).sum().sqrt())


def receptive_field(
    model: nn.Module,
    images: Tensor,
    layer: str | None = None,
    *,
    gradient: str = "positive",
    batch_size: int = 8,
) -> ReceptiveField:
    """The effective receptive field of the middle unit of a layer. The model is run in eval mode and left as it was.

    Args:
        model: any model of images.
        images: (N, C, H, W), normalised as the model wants them.
        layer: a module's path; default: the last that gives a feature map.
        gradient: `"positive"` (RepLKNet) or `"absolute"` (Luo et al.).
        batch_size: images at once.

    Raises:
        ValueError: no such layer or no feature map there; no gradient reaches the image, or it is zero everywhere.
    """
    check_choice("gradient", gradient, ("positive", "absolute"))
    refuse_wrappers(model)
    _check_images(images)
    layer = last_map(model, images) if layer is None else layer
    total = torch.zeros(images.shape[2:], dtype=torch.float64)
    used = dead = skipped = 0
    with evaluating(model), torch.enable_grad():
        for batch in images.split(batch_size):
            maps = _contributions(model, batch, layer, gradient)
            bad = maps.isnan().flatten(1).any(1)
            skipped += int(bad.sum())
            used += int((~bad).sum())
            dead += int((maps[~bad].flatten(1).amax(1) == 0).sum()) if bool((~bad).any()) else 0
            total += maps[~bad].sum(0)
    if float(total.max()) == 0:
        raise NoFieldError(
            f"layer={layer!r}: no image of {used} moves the unit in the middle of its map; give other images"
            + (", or gradient='absolute'" if gradient == "positive" else "")
        )
    return ReceptiveField(layer, total / max(used, 1), used, dead, skipped, gradient)


class NoFieldError(UsageError):
    """The layer has no receptive field to measure: no gradient passes, or no image activates the unit."""


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor) or images.dim() != 4 or not len(images):
        shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise UsageError(f"images must be a tensor (N, C, H, W) of at least one image, got {shape}")


def _contributions(model: nn.Module, batch: Tensor, layer: str, gradient: str) -> Tensor:
    """The contribution map of each image: (N, H, W) in float64 on the CPU."""
    inputs = batch.detach().clone().requires_grad_()
    output = output_of(model, inputs * 1, layer)  # a copy: the model may work in place
    if output.dim() != 4:
        raise UsageError(f"layer={layer!r} gives {tuple(output.shape)}, not a feature map (N, C, H, W)")
    middle = output[:, :, output.shape[2] // 2, output.shape[3] // 2]
    score = middle.relu().sum() if gradient == "positive" else middle.sum()
    found = torch.autograd.grad(score, inputs, allow_unused=True)[0] if score.requires_grad else None
    if found is None:
        raise NoFieldError(f"layer={layer!r}: no gradient passes from it to the images")
    kept = found.relu() if gradient == "positive" else found.abs()
    return kept.sum(1).cpu().double()


def receptive_fields(
    models: Mapping[str, nn.Module],
    images: Tensor,
    layers: Mapping[str, str] | None = None,
    *,
    gradient: str = "positive",
    batch_size: int = 8,
) -> dict[str, ReceptiveField]:
    """`receptive_field` of several models on the same images, to be shown side by side.

    Args:
        models: by the name to show.
        images: the same for all.
        layers: the layer by the model's name; default: the last that gives a feature map.
        gradient, batch_size: as for `receptive_field`.
    """
    named = layers or {}
    return {
        name: receptive_field(model, images, named.get(name), gradient=gradient, batch_size=batch_size)
        for name, model in models.items()
    }
