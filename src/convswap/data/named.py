"""The well-known public data sets: CIFAR and the MNIST family."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .arrays import data_from_arrays
from .npz import read_npz
from .types import Data

_DIGITS = tuple("0123456789")
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


@dataclass(frozen=True)
class NamedSet:
    """Facts about a public data set."""

    torchvision_class: str
    layout: str  # the files that torchvision keeps under the root, for messages
    image_shape: tuple[int, int, int]  # (C, H, W)
    num_classes: int
    mean: tuple[float, ...]  # of the training pixels
    std: tuple[float, ...]
    class_names: tuple[str, ...] | None
    flip: bool


NAMED_SETS = {
    "cifar10": NamedSet(
        "CIFAR10",
        "cifar-10-batches-py/",
        (3, 32, 32),
        10,
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
        _CIFAR10,
        True,
    ),
    "cifar100": NamedSet(
        "CIFAR100",
        "cifar-100-python/",
        (3, 32, 32),
        100,
        (0.5071, 0.4865, 0.4409),
        (0.2673, 0.2564, 0.2762),
        None,
        True,
    ),
    "mnist": NamedSet("MNIST", "MNIST/raw/", (1, 28, 28), 10, (0.1307,), (0.3081,), _DIGITS, False),
    "fashion_mnist": NamedSet(
        "FashionMNIST", "FashionMNIST/raw/", (1, 28, 28), 10, (0.2860,), (0.3530,), _FASHION, True
    ),
}


def load_named(name: str, root: str | Path | None, download: bool, eval_split: str = "auto") -> Data:
    """Load a set of `NAMED_SETS` from `<root>/<name>.npz`, torchvision's layout under the root, or the network.

    The default root is the environment variable `CONVSWAP_DATA`, or else `~/.cache/convswap/data`.

    Raises:
        DataError: none of the three works, or the files found are damaged or hold another data set.
    """
    facts = NAMED_SETS[name]
    folder = data_root(root)
    npz = folder / f"{name}.npz"
    if npz.exists():
        source, arrays, class_names = str(npz), read_npz(npz), facts.class_names
    else:
        source = f"{folder / facts.layout}"
        arrays, class_names = _read_torchvision(name, facts, folder, download)
    if class_names is None:
        class_names = tuple(str(label) for label in range(facts.num_classes))
    data = data_from_arrays(
        name,
        arrays,
        source=source,
        mean=facts.mean,
        std=facts.std,
        class_names=class_names,
        flip=facts.flip,
        eval_split=eval_split,
    )
    if (data.channels, *data.image_size) != facts.image_shape:
        raise DataError(
            f"{source}: images of {(data.channels, *data.image_size)} (C, H, W), but {name} has {facts.image_shape}"
        )
    return data


def data_root(root: str | Path | None) -> Path:
    """The folder in which data sets are sought, and to which they are downloaded."""
    chosen = root or os.environ.get("CONVSWAP_DATA") or "~/.cache/convswap/data"
    return Path(chosen).expanduser()


def _read_torchvision(
    name: str, facts: NamedSet, folder: Path, download: bool
) -> tuple[dict[str, np.ndarray], tuple[str, ...] | None]:
    from torchvision import datasets

    cls = getattr(datasets, facts.torchvision_class)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # torchvision prints while it downloads
            train = cls(str(folder), train=True, download=download)
            test = cls(str(folder), train=False, download=download)
    except Exception as error:  # missing, damaged or not downloadable: torchvision raises many types for these
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        tried = "and the download failed" if download else "and downloading is off"
        raise DataError(
            f"data set {name!r} not found: looked for {folder / (name + '.npz')} and {folder / facts.layout} {tried} "
            f"({reason}); put {name}.npz (uint8 x_train, y_train, x_test, y_test) or torchvision's files there, or "
            "name another folder with --data-root or CONVSWAP_DATA"
        ) from error
    arrays = {
        "x_train": _array(train.data),
        "y_train": _array(train.targets),
        "x_test": _array(test.data),
        "y_test": _array(test.targets),
    }
    classes = facts.class_names or tuple(train.classes)
    return arrays, classes


def _array(values: Any) -> np.ndarray:
    return np.asarray(values)
