"""A library for the tests of the native house: the installed one, or one built for them where a compiler is there."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from convswap.ops import native
from convswap.ops.native import build


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a library that holds at least what `ops/native` exports."""
    if native.library() is not None:
        return native.library_path().parent
    try:
        return build.build(tmp_path_factory.mktemp("native"), only=["native"]).path.parent
    except build.BuildError as error:
        pytest.skip(f"no native library: {error}")


@pytest.fixture(scope="session")
def library(folder: Path) -> ctypes.CDLL:
    """The library, opened."""
    return ctypes.CDLL(str(folder / build.LIBRARY))
