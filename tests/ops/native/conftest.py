"""A library for the tests of the native house: the installed one, or one built for them where a compiler is there."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
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
    opened = ctypes.CDLL(str(folder / build.LIBRARY))
    number, pointer = ctypes.c_int64, ctypes.c_void_p
    opened.convswap_pool_visit.argtypes = [ctypes.c_int, number, number, ctypes.c_int, pointer, pointer]
    opened.convswap_join_openmp.argtypes = [pointer, pointer]
    return opened


@pytest.fixture(scope="module", params=["own", "openmp"])
def team(library: ctypes.CDLL, request: pytest.FixtureRequest) -> Iterator[str]:
    """Whose threads do the work: those of the library's pool, or of torch's OpenMP runtime."""
    process = ctypes.CDLL(None)
    if request.param == "own":
        library.convswap_join_openmp(None, None)
    elif not hasattr(process, "GOMP_parallel"):
        pytest.skip("this torch has no OpenMP")
    else:
        functions = process.GOMP_parallel, process.omp_get_max_threads
        library.convswap_join_openmp(*(ctypes.cast(function, ctypes.c_void_p) for function in functions))
    yield request.param
    library.convswap_join_openmp(None, None)
    native.forget()  # opened again at the next question, with the team of the rules
