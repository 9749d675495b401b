"""The native kernels: one shared library of plain C functions, opened at its first use.

Nothing here raises when there is no library; operators then use their torch reference. See docs/native.md.
"""

from __future__ import annotations

import ctypes

from .loader import Loader, library_path
from .status import Status, check

__all__ = ["Status", "check", "cpu_features", "forget", "library", "library_path", "why_missing"]

_loader = Loader()


def library() -> ctypes.CDLL | None:
    """The library of native kernels, or None (then `why_missing` gives the reason). Cached."""
    return _loader.library()


def why_missing() -> str | None:
    """Why there is no library (not built, stale, switched off, not loadable); None when there is one."""
    return _loader.reason()


def cpu_features() -> frozenset[str]:
    """Instruction sets the kernels may use here: the processor has them and the system saves their state.

    Of popcnt, avx2, avx512, avx512_vpopcntdq, avx512_vnni, avx512_bf16, avx_vnni, amx_int8, neon, arm_dotprod. Empty
    without a library.
    """
    return _loader.features()


def forget() -> None:
    """Forget the library and look again at the next call, e.g. after a build."""
    _loader.forget()
