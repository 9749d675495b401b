"""Opening the library: there, missing, stale, damaged, switched off; and the doctor's words for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from compilers import needs_compiler

from convswap import doctor
from convswap.ops import native
from convswap.ops.native import build
from convswap.ops.native.loader import FOLDER_VARIABLE, Loader


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the place of the installed one."""
    monkeypatch.setattr(build, "FOLDER", tmp_path)
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.delenv("CONVSWAP_NATIVE", raising=False)
    return tmp_path


def why(loader: Loader) -> str:
    """The reason of a loader that found no library."""
    assert loader.library() is None
    assert loader.features() == frozenset()
    reason = loader.reason()
    assert reason is not None
    return reason


def test_a_missing_library_is_no_error(place: Path) -> None:
    reason = why(Loader())
    assert "not built (no " in reason
    assert "python -m convswap.ops.native.build" in reason


def test_the_reason_of_the_installation_is_kept(place: Path) -> None:
    (place / build.REASON).write_text("no C++ compiler found\n")
    assert "not built at installation: no C++ compiler found; with a C++ compiler" in why(Loader())


@pytest.mark.parametrize("content", [b"", b"not a library", b"\x7fELF" + bytes(200)])
def test_a_damaged_library_is_refused(place: Path, content: bytes) -> None:
    (place / build.LIBRARY).write_bytes(content)
    assert "cannot be loaded" in why(Loader())


@needs_compiler
def test_a_library_of_others_is_refused(place: Path) -> None:
    """One without our symbols."""
    source = place / "other.cpp"
    source.write_text('extern "C" int other() { return 1; }\n')
    command = [*build.find_compiler(), "-shared", "-fPIC", str(source), "-o", str(place / build.LIBRARY)]
    subprocess.run(command, check=True)
    assert "cannot be loaded" in why(Loader())


@needs_compiler
def test_a_stale_library_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build.build(place, only=["native"])
    loader = Loader()
    assert loader.library() is not None
    assert loader.reason() is None
    assert Loader().features() == loader.features()

    monkeypatch.setattr(build, "source_hash", lambda: "0123456789abcdef")
    assert loader.library() is not None  # what is open stays open
    loader.forget()
    assert "stale" in why(loader)

    monkeypatch.setenv(FOLDER_VARIABLE, str(place))  # named by a person: used as it is
    loader.forget()
    assert loader.library() is not None


@pytest.mark.parametrize("word", ["0", "off", "No", " false "])
def test_switched_off(folder: Path, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setenv("CONVSWAP_NATIVE", word)
    assert why(Loader()) == f"switched off by CONVSWAP_NATIVE={word.strip()}"


def test_a_named_folder_is_used(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONVSWAP_NATIVE", raising=False)
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    assert native.library_path() == folder / build.LIBRARY
    assert Loader().reason() is None
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    assert str(tmp_path) in why(Loader())


def test_importing_opens_nothing() -> None:
    program = """
import convswap, convswap.ops, convswap.ops.native
from convswap.ops import native
assert not native._loader._settled
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_doctor_names_the_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONVSWAP_BINARY_CONV", raising=False)
    monkeypatch.setattr(doctor.binary_conv, "path_names", lambda: ["amx", "vnni", "portable"])
    monkeypatch.setattr(doctor.dendritic, "path", lambda: "avx512")
    rows = dict(doctor._native())
    assert rows["binary convolution"] == "amx; vnni, portable where it does not apply"
    assert rows["dendritic convolution"] == "avx512"


@pytest.fixture
def with_loader(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let everybody ask a new loader, which sees the environment of the test."""
    return lambda: monkeypatch.setattr(native, "_loader", Loader())


def test_the_doctor_names_the_library(
    folder: Path, monkeypatch: pytest.MonkeyPatch, with_loader: Callable[[], None]
) -> None:
    monkeypatch.delenv("CONVSWAP_NATIVE", raising=False)
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    with_loader()
    for name in ("_binary_path", "_dendritic_path"):  # the folder may hold the house alone
        monkeypatch.setattr(doctor, name, lambda: "")
    rows = dict(doctor._native())
    assert str(folder) in rows["library"]
    assert all(name in rows["library"] for name in native.cpu_features())


def test_the_doctor_says_what_is_lost(monkeypatch: pytest.MonkeyPatch, with_loader: Callable[[], None]) -> None:
    monkeypatch.setenv("CONVSWAP_NATIVE", "0")
    monkeypatch.delenv("CONVSWAP_BINARY_CONV", raising=False)
    monkeypatch.delenv("CONVSWAP_DENDRITIC_CONV", raising=False)
    with_loader()
    rows = dict(doctor.diagnose()["native kernels"])
    assert rows["library"] == "none: switched off by CONVSWAP_NATIVE=0"
    assert "no faster than float32" in rows["binary convolution"]
    assert "slower, with more memory" in rows["dendritic convolution"]
    monkeypatch.setenv("CONVSWAP_DENDRITIC_CONV", "avx512")
    assert "no native kernels" in dict(doctor._native())["dendritic convolution"]
    monkeypatch.setenv("CONVSWAP_BINARY_CONV", "torch")
    assert "CONVSWAP_BINARY_CONV=torch" in dict(doctor._native())["binary convolution"]


def test_the_environment_is_not_touched() -> None:
    before = dict(os.environ)
    native.library()
    native.cpu_features()
    assert dict(os.environ) == before
