"""The house of the native kernels: one shared library of plain C functions, opened when first asked for.

Nothing here raises when there is no library: operators then use their torch reference. See docs/native.md.
"""

from __future__ import annotations

import ctypes

from ...errors import ConvswapError
from .loader import Loader, library_path

__all__ = ["check", "cpu_features", "forget", "library", "library_path", "why_missing"]

_NO_MEMORY = 3
_FAILURES = {
    1: "it does not take these sizes",
    2: "this processor lacks its instructions",
    4: "an unexpected exception, which is a bug",
    5: "the path that was asked for refuses this geometry",
}

_loader = Loader()


def library() -> ctypes.CDLL | None:
    """The library of native kernels, or None when there is none; `why_missing` then says why. Cached."""
    return _loader.library()


def why_missing() -> str | None:
    """Why there is no library (not built, stale, switched off, not loadable); None when there is one."""
    return _loader.reason()


def cpu_features() -> frozenset[str]:
    """Names of the instruction sets the kernels may use here: the processor has them and the system saves their state.

    Of popcnt, avx2, avx512, avx512_vpopcntdq, avx512_vnni, avx512_bf16, avx_vnni, amx_int8, neon, arm_dotprod. Empty
    without a library.
    """
    return _loader.features()


def check(status: int, kernel: str) -> None:
    """Raise what the status of a kernel (`Status` in csrc/api.h) says, unless that is success.

    Raises:
        MemoryError: there is no memory for its buffers.
        ConvswapError: anything else went wrong.
    """
    if status == _NO_MEMORY:
        raise MemoryError(f"no memory for the buffers of the native kernel {kernel}")
    if status:
        raise ConvswapError(f"the native kernel {kernel} failed: {_FAILURES.get(status, f'status {status}')}")


def forget() -> None:
    """Forget the answer and look again at the next question, e.g. after a build."""
    _loader.forget()
