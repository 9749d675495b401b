"""A validation part for data that bring none: held out of the training images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

import torch

from ..errors import UsageError
from .describe import Description
from .folder import FolderImages
from .split import stratified_split
from .types import ArrayImages, Data, Images


def hold_out(data: Data, fraction: float) -> Data:
    """The data with a part of the training images as validation part, the same share of every class.

    Which images these are depends on their places (of arrays) or names (of files) alone, so every seed and unit has the
    same. The test part and the constants of the normalisation stay as they are.

    Args:
        data: without a validation part.
        fraction: of the training images, above 0.

    Raises:
        UsageError: there is a validation part already.
        DataError: a class has one training image.
    """
    if data.validation is not None:
        raise UsageError(
            f"hold_out={fraction:g} is not allowed for {data.name!r}: it has a validation part of its own; leave "
            "hold_out out"
        )
    labels = [int(label) for label in data.train.labels]
    parts = "a training and a validation part"
    kept, held = stratified_split(labels, _keys(data.train), data.class_names, test_fraction=fraction, parts=parts)
    counts = {"train": _counts(labels, kept, data.class_names), "validation": _counts(labels, held, data.class_names)}
    return replace(
        data,
        train=_part(data.train, kept, train=True),
        validation=_part(data.train, held, train=False),
        fingerprint=sha256(f"{data.fingerprint} hold_out={fraction!r}".encode()).hexdigest(),
        description=None if data.description is None else _described(data.description, counts, fraction),
        options={**data.options, "hold_out": fraction},
    )


def _keys(images: Images) -> list[str]:
    if isinstance(images, ArrayImages):
        return [str(index) for index in range(len(images))]
    return ["/".join(path.parts[-2:]) for path in images.paths]  # class and file: the same in every folder


def _part(images: Images, indices: Sequence[int], *, train: bool) -> Images:
    if isinstance(images, ArrayImages):
        rows = torch.tensor(indices)
        return ArrayImages(images.images[rows], images.labels[rows])
    paths, labels = [images.paths[index] for index in indices], [images.labels[index] for index in indices]
    return FolderImages(paths, labels, images.image_size, train=train, decoding=images.decoding)


def _counts(labels: Sequence[int], indices: Sequence[int], names: Sequence[str]) -> dict[str, int]:
    found = dict.fromkeys(names, 0)
    for index in indices:
        found[names[labels[index]]] += 1
    return found


def _described(before: Description, counts: dict[str, dict[str, int]], fraction: float) -> Description:
    note = f"{fraction:.0%} of the training images held out for validation"
    parts = {"train": counts["train"], "validation": counts["validation"], "test": before.counts["test"]}
    return replace(before, counts=parts, notes=(*before.notes, note))
