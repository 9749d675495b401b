"""One writer per lab: a lock that the operating system drops when its holder dies, however it dies."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import IO

from ..errors import StoreError

_held: set[Path] = set()  # POSIX locks do not exclude within one process


class LabLock:
    """An exclusive lock on a file that names its holder.

    The lock is the operating system's, not the file's existence, so the file a killed process leaves behind
    blocks nobody. POSIX record locks are used because, unlike `flock`, forked data workers do not inherit them.

    Raises:
        StoreError: another process, or another store in this one, holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        if self.path in _held:
            raise StoreError(f"lab {self.path.parent} is already open for writing in this process; close it first")
        self._stream = _open(self.path)
        try:
            _acquire(self._stream)
        except OSError as error:
            holder = self._stream.read()
            self._stream.close()
            raise StoreError(_refusal(self.path, holder, error)) from error
        _held.add(self.path)
        self._stream.seek(0)
        self._stream.truncate()
        self._stream.write(json.dumps({"pid": os.getpid(), "host": platform.node()}))
        self._stream.flush()

    def release(self) -> None:
        """Give the lock up; the file stays, empty."""
        if self.path in _held:
            self._stream.truncate(0)
            self._stream.close()
            _held.discard(self.path)


def _open(path: Path) -> IO[str]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    return os.fdopen(descriptor, "r+", encoding="utf-8")


if sys.platform == "win32":
    import msvcrt

    def _acquire(stream: IO[str]) -> None:
        stream.seek(1 << 30)  # far behind the text, which others may then still read
        try:
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        finally:
            stream.seek(0)

else:
    import fcntl

    def _acquire(stream: IO[str]) -> None:
        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _refusal(path: Path, holder: str, error: OSError) -> str:
    try:
        who = json.loads(holder)
        owner = f"process {who['pid']} on {who['host']}"
    except (ValueError, TypeError, KeyError):
        owner = "another process"
    if isinstance(error, (BlockingIOError, PermissionError)):
        return f"lab {path.parent} is in use by {owner}; wait for it, stop it, or choose another lab"
    return f"lab {path.parent} cannot be locked ({error.strerror}); put it on a local disk"
