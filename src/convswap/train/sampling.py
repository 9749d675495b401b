"""Uneven classes: how often the images of each are drawn, or how much they count."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..data import Data, Images
from ..errors import DataError
from .recipes import Recipe


def labels_of(images: Images) -> Tensor:
    """The class of each image, (N,) int64."""
    return torch.as_tensor(images.labels, dtype=torch.int64)


def class_weights(labels_N: Tensor, names: Sequence[str]) -> Tensor:
    """N / (C N_c) for each class c of C, with N_c of the N images in it: (C,) float32. Their mean over images is 1.

    Raises:
        DataError: a class has no image.
    """
    counts_C = _counts(labels_N, names)
    return (len(labels_N) / (len(names) * counts_C.double())).float()


def balanced_order(labels_N: Tensor, names: Sequence[str], generator: torch.Generator) -> Tensor:
    """N indices of images, drawn with replacement, so that every class is equally likely at each place: (N,).

    Raises:
        DataError: a class has no image.
    """
    counts_C = _counts(labels_N, names)
    # First the class, then an image of it: torch.multinomial over images ends at 2^24 of them.
    class_N = torch.randint(len(names), (len(labels_N),), generator=generator)
    place_N = (torch.rand(len(labels_N), generator=generator, dtype=torch.float64) * counts_C[class_N]).long()
    by_class_N = torch.argsort(labels_N, stable=True)
    start_C = counts_C.cumsum(0) - counts_C
    return by_class_N[start_C[class_N] + place_N]


def weights_of(data: Data, recipe: Recipe, device: torch.device) -> Tensor | None:
    """How much an image of each class counts under a recipe. None: all alike."""
    if recipe.class_weights == "none":
        return None
    return class_weights(labels_of(data.train), data.class_names).to(device)


def order_of(data: Data, recipe: Recipe) -> Callable[[torch.Generator], Tensor] | None:
    """How the images of an epoch are chosen under a recipe, from its generator. None: each once."""
    if recipe.sampling == "shuffle":
        return None
    labels_N = labels_of(data.train)
    return lambda generator: balanced_order(labels_N, data.class_names, generator)


def _counts(labels_N: Tensor, names: Sequence[str]) -> Tensor:
    counts_C = torch.bincount(labels_N, minlength=len(names))
    for name, count in zip(names, counts_C.tolist(), strict=True):
        if count == 0:
            raise DataError(f"class {name!r} has no training image, so that classes cannot be balanced; add one")
    return counts_C
