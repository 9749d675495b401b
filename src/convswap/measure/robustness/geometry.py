"""Rotations, shears, quarter turns and flips as perturbations.

Interpolation and fill change the numbers (a ResNet-20 at 15 degrees: 66 % nearest, 81 % bilinear), so names give both.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...errors import UsageError, check_choice, check_number, check_whole
from .draws import Draws
from .perturbation import Perturbation

INTERPOLATIONS = ("nearest", "bilinear")
FILLS = ("black", "edge")


def rotation(
    degrees: float, interpolation: str = "bilinear", fill: str = "black", *, masked: bool = False
) -> Perturbation:
    """Every image turned counterclockwise by the same angle about its centre.

    Args:
        degrees: the angle.
        interpolation: `"nearest"` or `"bilinear"`.
        fill: what comes in at the corners: `"black"`, or `"edge"` (the nearest pixel of the border).
        masked: black out everything beyond the inscribed circle, which no angle changes. Otherwise the corners betray
            the angle. The reference is then `rotation(0, masked=True)`.

    Raises:
        UsageError: no such interpolation or fill; when applied with `masked`, images that are not square.
    """
    name = _affine_name("rotation", interpolation, fill, masked)
    _check_angle(degrees)

    def apply(images: Tensor, draws: Draws) -> Tensor:
        turned = _affine(images, degrees, 0.0, interpolation, fill)
        return inscribed_circle(turned) if masked else turned

    return Perturbation(f"{name}/{degrees:g}", apply, degrees)


def shear(degrees: float, interpolation: str = "nearest", fill: str = "black") -> Perturbation:
    """Every image sheared along its rows by the same angle, as torchvision's `affine(shear=[degrees, 0])` does.

    Raises:
        UsageError: no such interpolation or fill; an angle of 90 degrees or more.
    """
    name = _affine_name("shear", interpolation, fill, False)
    _check_angle(degrees, below=90)
    return Perturbation(f"{name}/{degrees:g}", lambda x, draws: _affine(x, 0.0, degrees, interpolation, fill), degrees)


def random_rotation(degrees: float, interpolation: str = "nearest", fill: str = "black") -> Perturbation:
    """Each image by its own angle, uniform in -degrees ... degrees: the test of the circle-kernel paper (nearest)."""
    name = _affine_name("random_rotation", interpolation, fill, False)
    _check_angle(degrees)
    return Perturbation(
        f"{name}/{degrees:g}", lambda x, draws: _each(x, draws, degrees, False, interpolation, fill), degrees
    )


def random_shear(degrees: float, interpolation: str = "nearest", fill: str = "black") -> Perturbation:
    """Each image by its own angle, uniform in -degrees ... degrees: the test of the circle-kernel paper (nearest)."""
    name = _affine_name("random_shear", interpolation, fill, False)
    _check_angle(degrees, below=90)
    return Perturbation(
        f"{name}/{degrees:g}", lambda x, draws: _each(x, draws, degrees, True, interpolation, fill), degrees
    )


def quarter_turn(turns: int) -> Perturbation:
    """Turned counterclockwise by 90 degrees `turns` times; no pixel is interpolated. For claims of equivariance."""
    check_whole("turns", turns, None)
    check_choice("turns", turns, range(4))
    return Perturbation(f"quarter_turn/{turns}", lambda images, draws: torch.rot90(images, turns, (2, 3)), turns)


def flip(direction: str) -> Perturbation:
    """Mirrored: `"horizontal"` (left and right change places) or `"vertical"`."""
    check_choice("direction", direction, ("horizontal", "vertical"))
    axis = 3 if direction == "horizontal" else 2
    return Perturbation(f"flip/{direction}", lambda images, draws: images.flip(axis))


def inscribed_circle(images: Tensor) -> Tensor:
    """Black beyond the circle through the centres of the outermost pixels of square images.

    At any angle everything inside the circle is made of pixels of the image, even with interpolation.
    """
    height, width = images.shape[-2:]
    if height != width:
        raise UsageError(f"masked=True is not allowed on images of {height}x{width}; they must be square")
    axis = torch.arange(height) - (height - 1) / 2
    return images * (axis[:, None].square() + axis.square() <= ((height - 1) / 2) ** 2)


def _check_angle(degrees: float, below: float = math.inf) -> None:
    limit = "" if below == math.inf else f" between -{below:g} and {below:g}"
    check_number("degrees", degrees, lambda angle: abs(angle) < below, f"a finite angle{limit}")


def _affine_name(kind: str, interpolation: str, fill: str, masked: bool) -> str:
    check_choice("interpolation", interpolation, INTERPOLATIONS)
    check_choice("fill", fill, FILLS)
    return f"{kind}_{interpolation}_{fill}" + ("_masked" if masked else "")


def _each(images: Tensor, draws: Draws, degrees: float, sheared: bool, interpolation: str, fill: str) -> Tensor:
    angles = draws.uniform(-degrees, degrees).tolist()
    pairs = [(0.0, angle) if sheared else (angle, 0.0) for angle in angles]
    turned = [_affine(images[i : i + 1], turn, lean, interpolation, fill) for i, (turn, lean) in enumerate(pairs)]
    return torch.cat(turned) if turned else images.clone()


def _affine(images: Tensor, angle: float, sheared: float, interpolation: str, fill: str) -> Tensor:
    """torchvision's affine map on bytes; the edge is filled by padding with it and cutting the middle out."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as tv

    mode = InterpolationMode(interpolation)
    height, width = images.shape[-2:]
    pad = [width, height] if fill == "edge" else [0, 0]
    x = tv.pad(images, pad, padding_mode="edge") if fill == "edge" else images
    if sheared:
        x = tv.affine(x, angle=0.0, translate=[0, 0], scale=1.0, shear=[sheared, 0.0], interpolation=mode)
    else:
        x = tv.rotate(x, angle, interpolation=mode)
    return x[..., pad[1] : pad[1] + height, pad[0] : pad[0] + width]
