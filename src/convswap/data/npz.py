"""`.npz` files: arrays in one file, as Keras and many papers distribute small image sets."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from ..errors import DataError, first_line
from .parts import part_of

_SAVE = "numpy.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)"


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays `x_...` and `y_...` of the parts in a `.npz` file, each read once. Pickles are never read.

    Of other arrays only the names count, so empty ones stand for them.

    Raises:
        DataError: there is no such file, or the file is damaged or holds Python objects.
    """
    if not path.is_file():
        raise DataError(f"{path}: {'a folder, not a .npz file' if path.is_dir() else 'no such file'}")
    try:
        with path.open("rb") as stream:
            if stream.read(6) == b"\x93NUMPY":
                raise DataError(f"{path}: a single array, not a .npz file; save with {_SAVE}")
        if not zipfile.is_zipfile(path):
            raise DataError(f"{path}: damaged, or not a .npz file of plain arrays; save with {_SAVE}")
        with np.load(path, allow_pickle=False) as file:
            for key in filter(_is_wanted, file.files):
                _refuse_objects(file.zip, key, path)
            return {key: file[key] if _is_wanted(key) else np.empty(0) for key in file.files}
    except (OSError, ValueError, EOFError, KeyError, SyntaxError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged, or not a .npz file of plain arrays ({first_line(error)})") from error


def _is_wanted(key: str) -> bool:
    return key.startswith(("x_", "y_")) and part_of(key[2:]) is not None


def _refuse_objects(archive: zipfile.ZipFile, key: str, path: Path) -> None:
    """An array of Python objects is a pickle, which could run anything. The array's header tells."""
    with archive.open(f"{key}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        dtype = read(stream)[2]
    if dtype.hasobject:
        fix = "numpy.stack(images).astype('uint8')" if key.startswith("x_") else "numpy.asarray(labels, 'int64')"
        raise DataError(
            f"{path}: {key} holds Python objects (a pickle), which are never read; save one plain array: {key}={fix}"
        )
