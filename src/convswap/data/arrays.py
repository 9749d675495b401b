"""Data sets that fit in memory: arrays in, checked `Data` out."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .types import ArrayImages, Data

_MAX_CHANNELS = 16
_CHUNK_BYTES = 16 << 20
_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def data_from_arrays(
    name: str,
    arrays: dict[str, np.ndarray],
    *,
    source: str,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    class_names: tuple[str, ...] | None = None,
    flip: bool | None = None,
) -> Data:
    """Check four arrays (`x_train`, `y_train`, `x_test`, `y_test`) and make a data set of them.

    Images are uint8, (N, H, W), (N, H, W, C) or (N, C, H, W). The shorter of axes 1 and 3 is the channels (the last
    one if they are equal). Labels are integers 0 ... K-1, each with at least one training image. No image is copied.
    Mean and standard deviation are computed over the training pixels unless given.

    Raises:
        DataError: an array is not like this. The message names `source`, the array, its content and what is needed.
    """
    absent = [key for key in _ARRAYS if key not in arrays]
    if absent:
        found = ", ".join(map(repr, arrays)) or "nothing"
        raise DataError(f"{source}: no array {', '.join(map(repr, absent))}; it holds {found}, needed are {_ARRAYS}")
    images = {split: _check_images(arrays[f"x_{split}"], f"{source}: x_{split}") for split in ("train", "test")}
    labels = {split: _check_labels(arrays[f"y_{split}"], f"{source}: y_{split}") for split in ("train", "test")}
    for split in ("train", "test"):
        if len(images[split]) != len(labels[split]):
            raise DataError(
                f"{source}: x_{split} has {len(images[split])} images but y_{split} has {len(labels[split])} labels"
            )
    if images["train"].shape[1:] != images["test"].shape[1:]:
        shapes = f"{images['train'].shape[1:]} and {images['test'].shape[1:]}"
        raise DataError(f"{source}: images of x_train and x_test have different shapes, {shapes}")
    num_classes = _count_classes(labels, source, class_names)

    axis = channel_axis(images["train"].shape)
    train, test = (
        ArrayImages(_as_nchw(images[split], axis), torch.from_numpy(labels[split])) for split in ("train", "test")
    )
    if mean is None or std is None:
        mean, std = pixel_statistics(train.images)
    channels, height, width = train.images.shape[1:]
    return Data(
        name=name,
        train=train,
        test=test,
        num_classes=num_classes,
        channels=channels,
        image_size=(height, width),
        mean=mean,
        std=std,
        class_names=class_names or tuple(str(label) for label in range(num_classes)),
        fingerprint=fingerprint(train, test),
        flip=channels != 1 if flip is None else flip,
    )


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


def fingerprint(train: ArrayImages, test: ArrayImages) -> str:
    """sha256 over shapes, pixels and labels. It does not depend on the file that the arrays came from."""
    digest = sha256()
    for images in (train, test):
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


def _count_classes(labels: dict[str, np.ndarray], source: str, class_names: tuple[str, ...] | None) -> int:
    present = np.unique(labels["train"])
    num_classes = len(class_names) if class_names else len(present)
    for split in ("train", "test"):
        highest = int(labels[split].max())
        if highest >= num_classes:
            raise DataError(
                f"{source}: y_{split} holds the label {highest}, but there are {num_classes} classes in the training "
                f"part; labels must be 0 ... {num_classes - 1} without gaps"
            )
    if len(present) < num_classes:
        gap = int(np.setdiff1d(np.arange(num_classes), present)[0])
        raise DataError(f"{source}: class {gap} has no training image")
    if num_classes < 2:
        raise DataError(f"{source}: y_train holds only one class; at least 2 are needed")
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
