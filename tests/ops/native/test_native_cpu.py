"""What the library says of the processor."""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path

import pytest

from convswap.ops import native

# name -> flags of /proc/cpuinfo that must all be there; Linux hides what it does not save.
FLAGS = {
    "popcnt": ["popcnt"],
    "avx2": ["avx2", "fma", "bmi2", "popcnt"],
    "avx512": ["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma", "bmi2"],
    "avx512_vpopcntdq": ["avx512_vpopcntdq", "avx512f"],
    "avx512_vnni": ["avx512_vnni", "avx512f"],
    "avx512_bf16": ["avx512_bf16", "avx512f"],
    "avx_vnni": ["avx_vnni", "avx2"],
    "amx_int8": ["amx_tile", "amx_int8", "avx512f"],
}


def seen(library: ctypes.CDLL) -> dict[str, bool]:
    """Every feature the library knows, and whether it is here."""
    library.convswap_cpu_feature_name.restype = ctypes.c_char_p
    found: dict[str, bool] = {}
    while (name := library.convswap_cpu_feature_name(len(found))) is not None:
        found[name.decode()] = bool(library.convswap_cpu_has_feature(len(found)))
    return found


@pytest.mark.skipif(platform.machine() != "x86_64" or not Path("/proc/cpuinfo").is_file(), reason="x86 Linux")
def test_features_are_those_of_the_system(library: ctypes.CDLL) -> None:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = set(next(line.partition(":")[2] for line in lines if line.startswith("flags")).split())
    here = seen(library)
    for name, needed in FLAGS.items():
        there = flags.issuperset(needed)
        assert here[name] <= there, f"{name} would be an illegal instruction"
        # The permission for AMX can be refused although the flags are there.
        assert here[name] == there or name == "amx_int8", name
    assert not here["neon"]
    assert set(here) == {*FLAGS, "neon", "arm_dotprod"}


def test_python_names_what_the_library_has(library: ctypes.CDLL) -> None:
    if native.library() is None:
        assert native.cpu_features() == frozenset()
    else:
        assert native.cpu_features() == {name for name, here in seen(library).items() if here}


def test_unknown_features_are_absent(library: ctypes.CDLL) -> None:
    seen(library)
    for index in (-1, 1000):
        assert library.convswap_cpu_feature_name(index) is None
        assert library.convswap_cpu_has_feature(index) == 0
