"""The limits of one core: measured for what the processor has, and for nothing else."""

from __future__ import annotations

import pytest

from benchmarks.kernels import probes
from convswap.ops import native
from convswap.ops.native import build


def test_probes_measure_what_the_processor_has() -> None:
    here = native.cpu_features()
    if not here:
        pytest.skip(f"no native library: {native.why_missing()}")
    try:
        found = probes.peaks(5)
    except build.BuildError as error:
        pytest.skip(f"no compiler for the probes: {error}")
    assert ("vnni" in found) == ("avx512_vnni" in here)
    assert ("popcount" in found) == (not here.isdisjoint({"popcnt", "neon"}))
    assert "amx" not in found or "amx_int8" in here  # compilers before 2021 do not know the tiles
    if here & {"avx2", "neon"}:
        assert 1e9 < found["fma"] < 1e12  # multiply-adds per second of one core
        assert found["popcount"] > found["fma"]
        assert "fma " in probes.describe(found)


def test_only_what_the_processor_has_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anything else would be an illegal instruction."""
    if not native.cpu_features():
        pytest.skip(f"no native library: {native.why_missing()}")
    monkeypatch.setattr(native, "cpu_features", lambda: frozenset({"nothing"}))
    try:
        assert probes.peaks() == {}
    except build.BuildError as error:
        pytest.skip(f"no compiler for the probes: {error}")


def test_no_library_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "cpu_features", frozenset)
    assert probes.peaks() == {}
    assert "no native library" in probes.describe({})
