"""The measured limits of one core of this machine, with which a kernel can be compared.

The builder of the kernels compiles the probes (`csrc/probes.cpp`) at their first use, into `_build/` here.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

from convswap.ops import native
from convswap.ops.native import build

HERE = Path(__file__).resolve().parent

#: probe -> what it counts
PROBES: dict[str, str] = {
    "fma": "float32 multiply-add",
    "popcount": "single bits: xor, popcount, add",
    "vnni": "8-bit integers, vpdpbusd",
    "amx": "8-bit integers, AMX tiles",
}

#: probe -> functions of csrc/probes.cpp, fastest first, each with the feature of the processor that it needs
_FUNCTIONS: dict[str, tuple[tuple[str, str], ...]] = {
    "fma": (("avx512", "fma_avx512"), ("avx2", "fma_avx2"), ("neon", "fma_neon")),
    "popcount": (
        ("avx512_vpopcntdq", "popcount_avx512"),
        ("avx2", "popcount_avx2"),
        ("popcnt", "popcount_scalar"),
        ("neon", "popcount_neon"),
    ),
    "vnni": (("avx512_vnni", "vnni_avx512"),),
    "amx": (("amx_int8", "amx_int8"),),
}


def peaks(milliseconds: int = 30) -> dict[str, float]:
    """Multiply-accumulates per second of one core, for every probe this processor can run; empty without kernels.

    Each probe keeps one core busy for about `milliseconds`. On a machine that does other work the figures are too
    low, so measure on a quiet one.

    Raises:
        BuildError: the kernels exist, but there is no compiler for the probes.
    """
    features = native.cpu_features()
    if not features:
        return {}
    library = ctypes.CDLL(str(build.build(HERE / "_build", ops=HERE).path))
    found: dict[str, float] = {}
    for name, functions in _FUNCTIONS.items():
        known = (f"convswap_probe_{function}" for feature, function in functions if feature in features)
        function = next((symbol for symbol in known if hasattr(library, symbol)), None)  # old compilers lack AMX
        if function is not None:
            probe = getattr(library, function)
            probe.restype, probe.argtypes = ctypes.c_double, [ctypes.c_int]
            found[name] = probe(milliseconds)
    return found


def describe(found: dict[str, float]) -> str:
    """One line: `one core: fma 108 G/s, popcount 1250 G/s (11.6x), ...`; the factors are against fma."""
    if not found:
        return "roofline: not measured (no native library)"
    fma = found.get("fma")
    words = [
        f"{name} {value / 1e9:.0f} G/s" + (f" ({value / fma:.1f}x)" if fma and name != "fma" else "")
        for name, value in found.items()
    ]
    return "peak of one core, multiply-accumulates: " + ", ".join(words)
