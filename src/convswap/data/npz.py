"""`.npz` files: four arrays in one file, as Keras and many papers distribute small image sets."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from ..errors import DataError, first_line

_WANTED = ("x_train", "y_train", "x_test", "y_test")


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The wanted arrays of a `.npz` file, each read once. Pickles are never read.

    Raises:
        DataError: there is no such file, or the file is damaged or holds Python objects.
    """
    if not path.is_file():
        raise DataError(f"{path}: {'a folder, not a .npz file' if path.is_dir() else 'no such file'}")
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise DataError(f"{path}: a single array, not a .npz file; save with numpy.savez(path, x_train=..., ...)")
        with file:
            return {key: file[key] for key in file.files if key in _WANTED}
    except (OSError, ValueError, EOFError, KeyError, SyntaxError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged, or not a .npz file of plain arrays ({first_line(error)})") from error
