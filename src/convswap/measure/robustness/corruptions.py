"""The 15 + 4 common corruptions of CIFAR-10-C and ImageNet-C (Hendrycks and Dietterich, arXiv:1903.12261)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from ...errors import UsageError, check_choice, check_whole, unknown_name
from . import blur, digital, noise, spatter, weather
from .draws import Draws
from .parameters import PARAMETERS
from .perturbation import Perturbation, check_images

Function = Callable[[Tensor, tuple[float, ...], Draws], Tensor]

_FUNCTIONS: dict[str, dict[str, Function]] = {
    "noise": {
        "gaussian_noise": noise.gaussian_noise,
        "shot_noise": noise.shot_noise,
        "impulse_noise": noise.impulse_noise,
    },
    "blur": {
        "defocus_blur": blur.defocus_blur,
        "glass_blur": blur.glass_blur,
        "motion_blur": blur.motion_blur,
        "zoom_blur": blur.zoom_blur,
    },
    "weather": {
        "snow": weather.snow,
        "frost": weather.frost,
        "fog": weather.fog,
        "brightness": weather.brightness,
    },
    "digital": {
        "contrast": digital.contrast,
        "elastic_transform": digital.elastic_transform,
        "pixelate": digital.pixelate,
        "jpeg_compression": digital.jpeg_compression,
    },
    "held_out": {
        "speckle_noise": noise.speckle_noise,
        "gaussian_blur": blur.gaussian_blur,
        "spatter": spatter.spatter,
        "saturate": digital.saturate,
    },
}
_BY_NAME = {name: function for group in _FUNCTIONS.values() for name, function in group.items()}

GROUPS: dict[str, tuple[str, ...]] = {group: tuple(functions) for group, functions in _FUNCTIONS.items()}
"""The corruptions by group: noise, blur, weather and digital are the common 15, `held_out` the other four."""

COMMON: tuple[str, ...] = tuple(name for group, names in GROUPS.items() if group != "held_out" for name in names)
"""The 15 corruptions that count, in the customary order."""

HELD_OUT: tuple[str, ...] = GROUPS["held_out"]
"""The four corruptions set aside for validation."""

PARAMETER_SETS = ("auto", "cifar", "imagenet")
"""The parameter sets of the corruptions; `"auto"` chooses by the size of the images."""

SMALLEST = 16
"""Smallest side of an image. Below it corruptions are not meaningful (the benchmarks start at 32)."""


def corruption(name: str, severity: int, parameters: str = "auto") -> Perturbation:
    """One corruption at one severity as a perturbation, named `<name>/<severity>`.

    Args:
        name: one of `COMMON` or `HELD_OUT`.
        severity: 1 to 5.
        parameters: `"cifar"`, `"imagenet"`, or `"auto"`: those of ImageNet for images of 128 pixels and more.

    Raises:
        UsageError: no such corruption, severity or parameters; when applied, images below 16 x 16.
    """
    if name not in _BY_NAME:
        raise unknown_name("corruption", name, _BY_NAME)
    check_whole("severity", severity, None)
    check_choice("severity", severity, range(1, 6))
    check_choice("parameters", parameters, PARAMETER_SETS)
    return Perturbation(f"{name}/{severity}", partial(_corrupt, name, severity, parameters), severity)


def corruption_set(
    names: Sequence[str] = COMMON, severities: Sequence[int] = (1, 2, 3, 4, 5), parameters: str = "auto"
) -> list[Perturbation]:
    """Every corruption at every severity."""
    return [corruption(name, severity, parameters) for name in names for severity in severities]


def corrupt(
    images: Tensor,
    name: str,
    severity: int,
    *,
    seed: int = 0,
    parameters: str = "auto",
    indices: Sequence[int] | None = None,
) -> Tensor:
    """Corrupt uint8 images (N, C, H, W): `corruption(name, severity, parameters)(images, seed, indices)`.

    >>> import torch
    >>> grey = torch.full((1, 3, 32, 32), 100, dtype=torch.uint8)
    >>> int(corrupt(grey, "brightness", 3).unique())
    138
    """
    return corruption(name, severity, parameters)(images, seed, indices)


def _corrupt(name: str, severity: int, parameters: str, images: Tensor, draws: Draws) -> Tensor:
    check_images(images)
    side = min(images.shape[-2:])
    if side < SMALLEST:
        raise UsageError(
            f"images of {side} pixels are not allowed for corruptions; give {SMALLEST} x {SMALLEST} or more"
        )
    large = side >= 128 if parameters == "auto" else parameters == "imagenet"
    level = PARAMETERS[name][large][severity - 1]
    if not len(images):
        return images.clone()
    return _BY_NAME[name](images, level, draws)
