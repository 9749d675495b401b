"""The idea this folder is built on: a perturbation changes uint8 images before they are normalised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import index

import torch
from torch import Tensor

from ...errors import UsageError, check_whole
from .draws import Draws


@dataclass(frozen=True)
class Perturbation:
    """A change to images at one severity.

    Attributes:
        name: name of this variant, unique in a table of predictions, e.g. `"gaussian_noise/3"`. The random numbers
            depend on it.
        function: (uint8 images (N, C, H, W) on the CPU, `Draws` for them) -> uint8 images.
        severity: the level, in the unit of its family: 1-5 for a corruption, JPEG quality, degrees, pixels.
    """

    name: str
    function: Callable[[Tensor, Draws], Tensor]
    severity: float = 0.0

    def __call__(self, images: Tensor, seed: int = 0, indices: Sequence[int] | None = None) -> Tensor:
        """The perturbed images, uint8 (N, C, H', W') on the CPU.

        Args:
            images: uint8, (N, C, H, W).
            seed: of the evaluation.
            indices: the images' places in their data set, by default 0 ... N - 1. An image's random numbers depend on
                its place, the seed and the name.

        Raises:
            UsageError: the images are not a uint8 batch, there are not as many indices, or the seed is not a whole
                number.
        """
        check_images(images)
        check_whole("seed", seed, None)
        places = range(len(images)) if indices is None else [*map(index, indices)]
        if len(places) != len(images):
            raise UsageError(f"indices has {len(places)} entries for {len(images)} images; give one for each")
        return self.function(images.cpu(), Draws(seed, self.name, places))


def clean() -> Perturbation:
    """The images as they are: the reference of every other variant."""
    return Perturbation("clean", lambda images, draws: images)


def check_images(images: Tensor) -> None:
    """Raise a `UsageError` unless these are uint8 images (N, C, H, W) with one or three channels."""
    if not isinstance(images, Tensor):
        raise UsageError(f"images={type(images).__name__} is not allowed; give a tensor of torch.uint8 (N, C, H, W)")
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise UsageError(
            f"images of {images.dtype} and shape {tuple(images.shape)} are not allowed; give torch.uint8 images "
            "(N, C, H, W) with 1 or 3 channels, before normalisation"
        )
