"""What all tests share: where the real data and the golden tensors are."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from hypothesis import settings

import convswap

TESTS = Path(__file__).resolve().parent
collect_ignore = ["fixtures"]  # a package of its own, with tests of its own; tests/testing installs and runs it
COMPILER = "CXX" in os.environ or any(shutil.which(name) for name in ("c++", "g++", "clang++"))

# A shell that starts the tests in the background makes them, and all they start, deaf to Ctrl-C, which some test.
signal.signal(signal.SIGINT, signal.default_int_handler)

if "PYTEST_XDIST_WORKER" in os.environ:  # workers run side by side, one a core: more threads would only wait
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start
    torch.set_num_threads(1)


# The first example of a cold process pays for torch's start, any example for a busy machine: time is no property.
settings.register_profile("convswap", deadline=None)
settings.load_profile("convswap")


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Skip what cannot be: without a C++ compiler `torch.compile` has no code for the processor."""
    try:
        return (yield)
    except RuntimeError as error:
        if not COMPILER and "InvalidCxxCompiler" in str(error):
            pytest.skip("no C++ compiler, which torch.compile needs")
        raise


def shared_folder() -> Path | None:
    """The folder of real data and references beside the checkout, where there is one."""
    folder = TESTS.parent.parent / "shared"
    return folder if folder.is_dir() else None


@pytest.fixture
def child_environment() -> Callable[..., dict[str, str]]:
    """`child_environment(*folders, **variables)`: a child imports from `folders`, and the convswap under test."""

    def environment(*folders: Path, **variables: str) -> dict[str, str]:
        given = filter(None, [os.environ.get("PYTHONPATH")])
        source = Path(convswap.__file__).resolve().parent.parent
        return os.environ | variables | {"PYTHONPATH": os.pathsep.join([*map(str, folders), str(source), *given])}

    return environment


@pytest.fixture(scope="session")
def shared() -> Path:
    """`shared_folder()`, or skip."""
    folder = shared_folder()
    if folder is None:
        pytest.skip("no folder ../shared beside the checkout")
    return folder


@pytest.fixture(scope="session")
def data_root(request: pytest.FixtureRequest) -> Path:
    """A `--data-root` with the real CIFAR-10 (`cifar10.npz`) and MNIST: `CONVSWAP_DATA`, or unpacked once; or skip."""
    if configured := os.environ.get("CONVSWAP_DATA"):
        return Path(configured)
    source = shared_folder()
    if source is None or not (source / "data" / "unpack.py").is_file():
        pytest.skip("no real data: neither CONVSWAP_DATA nor ../shared/data is there")
    assert request.config.cache is not None
    folder = request.config.cache.mkdir("convswap-data")
    complete = folder / "complete"
    with FileLock(folder / "lock"):  # one test process unpacks, the others wait
        if not complete.exists():
            subprocess.run([sys.executable, source / "data" / "unpack.py", folder], check=True, capture_output=True)
            complete.touch()
    return Path(folder)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Any]]:
    """`golden("resnet")`: the reference tensors in tests/golden/resnet, by file name without `.pt`."""

    def load(system: str) -> dict[str, Any]:
        folder = TESTS / "golden" / system
        cases = {path.stem: torch.load(path, weights_only=True) for path in sorted(folder.glob("*.pt"))}
        assert cases, f"no golden tensors in {folder}"
        return cases

    return load
