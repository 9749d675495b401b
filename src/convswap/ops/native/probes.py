"""The limits of one core of this machine, measured: what a kernel can be compared with."""

from __future__ import annotations

import ctypes

from . import library

#: probe -> what it counts
PROBES: dict[str, str] = {
    "fma": "float32 multiply-add",
    "popcount": "single bits: xor, popcount, add",
    "vnni": "8-bit integers, vpdpbusd",
    "amx": "8-bit integers, AMX tiles",
}


def peaks(milliseconds: int = 30) -> dict[str, float]:
    """Multiply-accumulates per second of one core, for every probe this processor can run; empty without a library.

    Each probe keeps one core busy for about `milliseconds`. On a machine that does other work the figures come out
    low: measure on a quiet one.
    """
    native = library()
    if native is None:
        return {}
    found: dict[str, float] = {}
    for name in PROBES:
        probe = getattr(native, f"convswap_probe_{name}")
        probe.restype, probe.argtypes = ctypes.c_double, [ctypes.c_int]
        if (value := probe(milliseconds)) > 0:
            found[name] = value
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
