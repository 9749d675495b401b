"""The published CIFAR-10-C and CIFAR-100-C files (Zenodo 2535967 and 3555552), read from `.npy`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError, check_choice, check_whole
from .corruptions import COMMON, HELD_OUT
from .draws import Draws
from .perturbation import Perturbation

_LEVELS = 5


def cifar_c_names(folder: str | Path) -> tuple[str, ...]:
    """The corruptions whose file is in the folder, in the customary order."""
    return tuple(name for name in COMMON + HELD_OUT if (Path(folder) / f"{name}.npy").is_file())


def load_cifar_c(folder: str | Path, name: str, severity: int) -> tuple[Tensor, Tensor]:
    """Images and labels of one corruption at one severity.

    Args:
        folder: holds `<name>.npy`, uint8 (5 N, H, W, 3), severity s in rows (s - 1) N ... s N - 1, and `labels.npy`.
        name: e.g. `"fog"`.
        severity: 1 to 5.

    Returns:
        uint8 images (N, 3, H, W), N = 10,000 in the published files, and int64 labels (N,).

    Raises:
        UsageError: no such severity.
        DataError: a file is missing or has other contents.
    """
    check_whole("severity", severity, None)
    check_choice("severity", severity, range(1, _LEVELS + 1))
    images = _read(Path(folder) / f"{name}.npy")
    labels = _read(Path(folder) / "labels.npy")
    total = len(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or total % _LEVELS or not total:
        raise DataError(f"{name}.npy holds {images.dtype} {images.shape}; expected uint8 (5 N, H, W, 3)")
    if labels.shape != (total,) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"labels.npy holds {labels.dtype} {labels.shape}; expected {total} whole numbers")
    count = total // _LEVELS
    rows = slice((severity - 1) * count, severity * count)
    pixels = torch.from_numpy(np.ascontiguousarray(images[rows].transpose(0, 3, 1, 2)))
    return pixels, torch.from_numpy(labels[rows].astype(np.int64))


def cifar_c(folder: str | Path, name: str, severity: int) -> Perturbation:
    """The published images as a perturbation of the test set, named `<name>/<severity>` like the generated ones.

    Image i of the test set is replaced by row i of the file.

    Raises:
        UsageError: no such severity.
        DataError: see `load_cifar_c`; when applied, the file has no such row or images of another size.
    """
    images, _ = load_cifar_c(folder, name, severity)
    return Perturbation(f"{name}/{severity}", partial(_replace, name, images), severity)


def _replace(name: str, published: Tensor, images: Tensor, draws: Draws) -> Tensor:
    indices = list(draws.indices)
    if (indices and max(indices) >= len(published)) or images.shape[1:] != published.shape[1:]:
        raise DataError(
            f"{name}.npy holds {len(published)} images of {tuple(published.shape[1:])} for each severity; the data set "
            f"has images of {tuple(images.shape[1:])}, up to number {max(indices, default=0)}"
        )
    return published[indices]


def _read(path: Path) -> np.ndarray:
    try:
        found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path} is missing; unpack the published archive there") from None
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return found
