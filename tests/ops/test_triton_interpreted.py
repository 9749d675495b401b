"""The Triton kernels on a CPU, run by Triton's interpreter: in processes of their own, since it is chosen at import."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKS = Path(__file__).parent / "interpreted"

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


@needs_triton
@pytest.mark.parametrize("kernels", ["binary", "dendritic"])
def test_kernels_equal_their_references(kernels: str) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTEST_XDIST_WORKER", None)
    environment.pop("CONVSWAP_TRITON", None)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        "0",
        "-q",
        "-p",
        "no:cacheprovider",
        CHECKS / f"check_{kernels}.py",
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    print(done.stdout[-2000:])
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout.splitlines()[-1]


def test_every_file_of_checks_is_run() -> None:
    assert {path.stem for path in CHECKS.glob("*.py")} == {"check_binary", "check_dendritic"}


def test_without_triton_or_switched_off_the_reason_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    from convswap.ops import gpu
    from convswap.ops.binary_conv import triton_kernel

    monkeypatch.setattr(gpu, "_installed", lambda: True)
    assert gpu.why_missing() is None
    assert triton_kernel.available()
    for value in ("0", "off", "No", "FALSE"):
        monkeypatch.setenv("CONVSWAP_TRITON", value)
        assert f"CONVSWAP_TRITON={value}" in str(gpu.why_missing())
        assert not triton_kernel.available()
    monkeypatch.setenv("CONVSWAP_TRITON", "1")
    monkeypatch.setattr(gpu, "_installed", lambda: False)
    assert gpu.why_missing() == "triton is not installed"
    assert not triton_kernel.available()


def test_importing_the_operators_leaves_triton_alone() -> None:
    source = (
        "import sys, convswap.ops.binary_conv.triton_kernel, convswap.ops.dendritic.triton_kernels;"
        "sys.exit('triton' in sys.modules and 'triton.language' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", source], check=False).returncode == 0
