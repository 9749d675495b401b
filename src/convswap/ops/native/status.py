"""The status that native kernels return, and the exception that Python raises for it."""

from __future__ import annotations

from enum import IntEnum

from ...errors import ConvswapError


class Status(IntEnum):
    """`Status` in `csrc/api.h`; a test compares the two."""

    OK = 0
    BAD_ARGUMENT = 1
    UNSUPPORTED = 2
    NO_MEMORY = 3
    INTERNAL = 4


_FAILURES: dict[int, str] = {
    Status.BAD_ARGUMENT: "it does not take these sizes",
    Status.UNSUPPORTED: "this processor lacks its instructions",
    Status.INTERNAL: "an unexpected exception, which is a bug",
}


def check(status: int, kernel: str) -> None:
    """Raise the exception for a kernel's status, unless the status is success.

    Raises:
        MemoryError: there is no memory for its buffers.
        ConvswapError: anything else went wrong.
    """
    if status == Status.NO_MEMORY:
        raise MemoryError(f"no memory for the buffers of the native kernel {kernel}")
    if status != Status.OK:
        raise ConvswapError(f"the native kernel {kernel} failed: {_FAILURES.get(status, f'status {status}')}")
