"""A pair of processes that check units under DDP. It is started once for all units, because starting costs most."""

from __future__ import annotations

import atexit
import os
import pickle
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

_SECONDS = 300
_START = "import sys; sys.path[:] = {path!r}; from convswap.testing.rank import main; main({rank}, {folder!r})"


class _Pair:
    """Two ranks of one gloo group, each reading jobs from its stdin and writing answers to its stdout."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="convswap-ranks-", ignore_cleanup_errors=True)
        self.owner = os.getpid()
        self.ranks = [self._start(rank) for rank in range(2)]
        atexit.register(self.close)

    def _start(self, rank: int) -> subprocess.Popen[bytes]:
        code = _START.format(path=sys.path, rank=rank, folder=self.folder.name)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with self._log(rank).open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
            )

    def _log(self, rank: int) -> Path:
        return Path(self.folder.name, f"{rank}.log")

    def ask(self, job: tuple[str, str | None, bytes]) -> str | None:
        """What is wrong with a unit, or None. A pair that dies or hangs is abandoned."""
        answers: list[Any] = [_Silent(), _Silent()]

        def talk(rank: int) -> None:
            process = self.ranks[rank]
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                pickle.dump(job, process.stdin)
                process.stdin.flush()
                answers[rank] = pickle.load(process.stdout)
            except (OSError, EOFError, pickle.UnpicklingError):
                return

        threads = [threading.Thread(target=talk, args=(rank,), daemon=True) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(_SECONDS)
        silent = [rank for rank, answer in enumerate(answers) if isinstance(answer, _Silent)]
        if not silent:
            return next((answer for answer in answers if answer is not None), None)
        lines = self._log(silent[0]).read_text(errors="replace").strip().splitlines()
        self.close()
        return f"rank {silent[0]} did not answer within {_SECONDS} s, or died: {lines[-1] if lines else 'no message'}"

    @property
    def alive(self) -> bool:
        """Can this process use the pair?"""
        return self.owner == os.getpid() and all(process.poll() is None for process in self.ranks)

    def close(self) -> None:
        """End both processes."""
        if self.owner != os.getpid():
            return
        for process in self.ranks:
            process.kill()
            process.wait()
        self.folder.cleanup()


class _Silent:
    """No answer came."""


_pair: _Pair | None = None


def two_ranks(cls: type, arguments: dict[str, Any]) -> str | None:
    """Build `cls(**arguments)` on two ranks and train it under DDP: what is wrong, or None."""
    global _pair
    if _pair is None or not _pair.alive:
        _pair = _Pair()
    module = sys.modules[cls.__module__]
    return _pair.ask((module.__name__, getattr(module, "__file__", None), pickle.dumps((cls, arguments))))
