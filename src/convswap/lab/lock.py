"""One writer per lab: a lock that the operating system releases when its holder dies in any way."""

from __future__ import annotations

import json
import os
import platform
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import StoreError
from ..files import write_atomically


class LabLock:
    """An exclusive lock on a file. A file beside it names the holder.

    The operating system holds the lock, not the existence of the file. The files of a killed process therefore block
    nobody. Forked data workers do not inherit the lock.

    Raises:
        StoreError: another process, or another store in this process, holds the lock.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._holder = self.path.with_name(f"{self.path.name}.holder")
        # any thread may close the store; with this mode the umask decides who else may use the lab
        self._lock = FileLock(self.path, timeout=0, thread_local=False, mode=0o666)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise StoreError(self._refusal()) from error
        except (OSError, NotImplementedError) as error:
            reason = getattr(error, "strerror", None) or error
            raise StoreError(f"lab {self.path.parent} cannot be locked ({reason}); put it on a local disk") from error
        try:
            since = datetime.now().astimezone().isoformat(timespec="seconds")
            who = {"pid": os.getpid(), "host": platform.node(), "since": since}
            write_atomically(self._holder, json.dumps(who).encode())
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Release the lock. The file stays, empty."""
        if self._lock.is_locked:
            self._holder.unlink(missing_ok=True)
            self._lock.release()

    def _refusal(self) -> str:
        try:
            who = json.loads(self._holder.read_text(encoding="utf-8"))
            pid, host, since = who["pid"], who["host"], who["since"]
        except (OSError, ValueError, TypeError, KeyError):  # the holder has only just started or just finished
            return f"lab {self.path.parent} is in use by another process; wait for it, or choose another lab"
        if (pid, host) == (os.getpid(), platform.node()):
            return f"lab {self.path.parent} is already open for writing in this process; close it first"
        return (
            f"lab {self.path.parent} is in use by process {pid} on {host} since {since}; "
            "wait for it, stop it, or choose another lab"
        )
