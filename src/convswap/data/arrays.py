"""Data sets that fit in memory: arrays in, checked `Data` out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .describe import Description
from .options import DataOptions
from .parts import part_of
from .types import ArrayImages, Data
from .uses import TEST, TRAIN, VALIDATION, uses_of

_MAX_CHANNELS = 16
_CHUNK_BYTES = 16 << 20
_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def data_from_arrays(
    name: str,
    arrays: Mapping[str, np.ndarray],
    *,
    source: str,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    class_names: tuple[str, ...] | None = None,
    flip: bool | None = None,
    eval_split: str = "auto",
) -> Data:
    """Check arrays (`x_train`, `y_train`, `x_test`, `y_test`, perhaps `x_val`, `y_val`) and make a data set of them.

    Images are uint8, (N, H, W), (N, H, W, C) or (N, C, H, W). The shorter of axes 1 and 3 is the channels (the last
    one if they are equal). Labels are integers 0 ... K-1, each with at least one training image. No image is copied.
    Mean and standard deviation are computed over the training pixels unless given.

    Raises:
        DataError: an array is not like this. The message names `source`, the array, its content and what is needed.
        UsageError: `eval_split` (see `DataOptions`) names a part that is not there.
    """
    parts, idle = _find_parts(arrays, source)
    uses = uses_of({part: f"x_{own}" for part, own in parts.items()}, eval_split, source)
    keys = {use: (f"x_{parts[part]}", f"y_{parts[part]}") for use, part in uses.parts.items()}
    images = {use: _check_images(arrays[x], f"{source}: {x}") for use, (x, _) in keys.items()}
    labels = {use: _check_labels(arrays[y], f"{source}: {y}") for use, (_, y) in keys.items()}
    for use, (x, y) in keys.items():
        if len(images[use]) != len(labels[use]):
            raise DataError(f"{source}: {x} has {len(images[use])} images but {y} has {len(labels[use])} labels")
        if images[use].shape[1:] != images[TRAIN].shape[1:]:
            shapes = f"{images[TRAIN].shape[1:]} and {images[use].shape[1:]}"
            raise DataError(f"{source}: images of {keys[TRAIN][0]} and {x} have different shapes, {shapes}")
    num_classes = _count_classes({keys[use][1]: of_use for use, of_use in labels.items()}, source, class_names)

    axis = channel_axis(images[TRAIN].shape)
    tensors = {
        use: ArrayImages(_as_nchw(of_use, axis), torch.from_numpy(labels[use])) for use, of_use in images.items()
    }
    train, test, validation = tensors[TRAIN], tensors[TEST], tensors.get(VALIDATION)
    if mean is None or std is None:
        mean, std = pixel_statistics(train.images)
    channels, height, width = train.images.shape[1:]
    names = class_names or tuple(str(label) for label in range(num_classes))
    return Data(
        name=name,
        train=train,
        test=test,
        num_classes=num_classes,
        channels=channels,
        image_size=(height, width),
        mean=mean,
        std=std,
        class_names=names,
        fingerprint=fingerprint(train, test, validation),
        flip=channels != 1 if flip is None else flip,
        validation=validation,
        description=_describe(tensors, names, uses.names, (*uses.notes, *idle)),
        options=DataOptions(eval_split=eval_split).as_dict(),
    )


def _find_parts(arrays: Mapping[str, np.ndarray], source: str) -> tuple[dict[str, str], list[str]]:
    """From `"train"`, `"val"` and `"test"` to the names that follow `x_` and `y_`, and a note on idle arrays."""
    parts: dict[str, str] = {}
    for key in arrays:
        part = part_of(key[2:]) if key.startswith(("x_", "y_")) else None
        if part is not None and parts.setdefault(part, key[2:]) != key[2:]:
            raise DataError(f"{source}: {key} and x_{parts[part]} are for the same part; keep one of them")
    found = ", ".join(map(repr, arrays)) or "nothing"
    if "test" not in parts and "val" not in parts:
        parts["test"] = "test"
    wanted = [f"{letter}_{own}" for own in {"train": "train", **parts}.values() for letter in "xy"]
    absent = [key for key in wanted if key not in arrays]
    if absent:
        raise DataError(f"{source}: no array {', '.join(map(repr, absent))}; it holds {found}, needed are {_ARRAYS}")
    idle = [key for key in arrays if key not in wanted]
    return {part: parts[part] for part in ("train", "val", "test") if part in parts}, (
        [f"arrays not used: {', '.join(idle)}"] if idle else []
    )


def _describe(
    tensors: Mapping[str, ArrayImages], names: tuple[str, ...], sources: Mapping[str, str], notes: tuple[str, ...]
) -> Description:
    counts = {
        use: dict(zip(names, torch.bincount(images.labels, minlength=len(names)).tolist(), strict=True))
        for use, images in tensors.items()
    }
    channels, height, width = tensors[TRAIN].images.shape[1:]
    colour = {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
    total = sum(map(len, tensors.values()))
    return Description(counts, width, height, {colour: total}, sources, one_size=True, notes=notes)


def channel_axis(shape: tuple[int, ...]) -> int | None:
    """The axis of a batch's shape that holds the channels, or None if there is none, as in (N, H, W).

    >>> channel_axis((10, 32, 32, 3)), channel_axis((10, 3, 32, 32)), channel_axis((10, 28, 28))
    (3, 1, None)
    """
    if len(shape) == 3:
        return None
    return 1 if shape[1] < shape[3] else 3


def pixel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images, as of pixels in 0..1.

    They come from exact counts of the 256 values, taken one chunk of images at a time, without a float copy of the
    set. A constant channel gets the standard deviation of one grey level, so that division by it is safe.
    """
    counts_CV = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for chunk in _chunks(images, _CHUNK_BYTES // 8):  # bincount widens to int64
        for channel in range(images.shape[1]):
            counts_CV[channel] += torch.bincount(chunk[:, channel].reshape(-1), minlength=256)
    values_V = torch.arange(256, dtype=torch.float64) / 255
    share_CV = counts_CV.double() / counts_CV.sum(1, keepdim=True)
    mean_C = share_CV @ values_V
    variance_C = (share_CV * (values_V - mean_C[:, None]) ** 2).sum(1)
    std_C = variance_C.sqrt().clamp_min(1 / 255)
    return tuple(mean_C.tolist()), tuple(std_C.tolist())


def fingerprint(train: ArrayImages, test: ArrayImages, validation: ArrayImages | None = None) -> str:
    """sha256 over shapes, pixels and labels. It does not depend on the file that the arrays came from."""
    digest = sha256()
    for images in (train, test) if validation is None else (train, test, validation):
        digest.update(repr(tuple(images.images.shape)).encode())
        for chunk in _chunks(images.images, _CHUNK_BYTES):
            # Most files hold NHWC: hashing in that order needs no copy.
            digest.update(np.ascontiguousarray(chunk.permute(0, 2, 3, 1).numpy()).data)
        digest.update(images.labels.numpy().astype("<i8").data)
    return digest.hexdigest()


def _chunks(images: Tensor, max_bytes: int) -> Iterator[Tensor]:
    yield from images.split(max(1, max_bytes // images[0].numel()))


def _check_images(array: np.ndarray, where: str) -> np.ndarray:
    if array.dtype != np.uint8:
        found = _describe_values(array)
        raise DataError(
            f"{where} must hold uint8 (0..255), got {array.dtype}{found}; "
            "for values in 0..1 store (x * 255).round().astype('uint8')"
        )
    if array.ndim not in (3, 4):
        raise DataError(f"{where} must have shape (N, H, W), (N, H, W, C) or (N, C, H, W), got {array.shape}")
    if 0 in array.shape:
        raise DataError(f"{where} is empty: its shape is {array.shape}")
    axis = channel_axis(array.shape)
    if axis is not None and array.shape[axis] > _MAX_CHANNELS:
        raise DataError(f"{where} has shape {array.shape}: no axis 1 or 3 of at most {_MAX_CHANNELS} channels")
    return array


def _check_labels(array: np.ndarray, where: str) -> np.ndarray:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DataError(f"{where} must have shape (N,), one label per image, got {array.shape}")
    if not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"{where} must hold integers, got {array.dtype}{_describe_values(array)}")
    for label in (int(array.min()), int(array.max())) if len(array) else ():
        if not 0 <= label < 1 << 31:
            raise DataError(f"{where} holds the label {label}; labels are 0 ... K-1")
    return array.astype(np.int64)


def _count_classes(labels: Mapping[str, np.ndarray], source: str, class_names: tuple[str, ...] | None) -> int:
    """The number of classes, from labels by array. The first array is the training part's."""
    first = next(iter(labels))
    present = np.unique(labels[first])
    num_classes = len(class_names) if class_names else len(present)
    for key, values in labels.items():
        highest = int(values.max())
        if highest >= num_classes:
            from_one = not class_names and all(int(values.min()) >= 1 for values in labels.values())
            fix = f"; the labels begin at 1: subtract 1 from {' and '.join(labels)}" if from_one else ""
            raise DataError(
                f"{source}: {key} holds the label {highest}, but there are {num_classes} classes in the training "
                f"part; labels must be 0 ... {num_classes - 1} without gaps{fix}"
            )
    if len(present) < num_classes:
        gap = int(np.setdiff1d(np.arange(num_classes), present)[0])
        raise DataError(f"{source}: class {gap} has no training image")
    if num_classes < 2:
        raise DataError(f"{source}: {first} holds only one class; at least 2 are needed")
    return num_classes


def _describe_values(array: np.ndarray) -> str:
    """The content of an array of the wrong type, for the error message."""
    if not np.issubdtype(array.dtype, np.number) or not array.size:
        return ""
    if np.issubdtype(array.dtype, np.inexact) and (n_nan := int(np.isnan(array).sum())):
        return f" with {n_nan} NaN"
    return f" in {array.min():.4g}..{array.max():.4g}" if not np.iscomplexobj(array) else ""


def _as_nchw(array: np.ndarray, axis: int | None) -> Tensor:
    # torch needs a writable array in native order, which an array read from a file is. A view costs no memory.
    images: Any = torch.from_numpy(array if array.flags.writeable else array.copy())
    if axis is None:
        return images.unsqueeze(1)
    return images if axis == 1 else images.permute(0, 3, 1, 2)
