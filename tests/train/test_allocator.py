"""The C allocator's setting for training on a CPU, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
from convswap.train.allocator import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(12_000_000)  # 48 MB, touched and freed
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
default = faults()
print(keep_freed_memory())
faults()
print(faults() < default / 5, default)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has the setting")
def test_freed_memory_is_used_again() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=300)
    set_, rest = done.stdout.splitlines()
    if set_ == "False":
        pytest.skip("another C library than glibc")
    assert rest.startswith("True"), rest
