"""A copy of the working tree, into which bugs are written and in which tests run."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from .catalogue import Mutant


def copy_tree(root: Path, folder: Path) -> None:
    """Copy what git tracks or would track of the working tree at `root`, as it is now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        check=True,
    )
    for name in sorted(set(listed.stdout.decode().split("\0"))):
        if name and (root / name).is_file():  # a file deleted since the last commit is still listed
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)


def environment(folder: Path) -> dict[str, str]:
    """The copy's package first, also in the processes that tests start."""
    path = os.pathsep.join([str(folder / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": threads}


def check_copy(folder: Path) -> None:
    """Raise unless `import convswap` in the copy finds the copy. Otherwise every mutant would survive."""
    command = [sys.executable, "-c", "import convswap; print(convswap.__file__)"]
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=True)
    if not Path(done.stdout.strip()).resolve().is_relative_to(folder.resolve()):
        raise RuntimeError(f"tests in the copy {folder} would run {done.stdout.strip()}")


_LATER = itertools.count(10)


@contextmanager
def applied(mutant: Mutant, folder: Path) -> Iterator[None]:
    """Put the bug into the copy inside the `with`."""
    path = folder / mutant.file
    right, wrong, times = path.read_text(encoding="utf-8"), mutant.mutated(folder), path.stat()
    path.write_text(wrong, encoding="utf-8")
    # Python matches byte code to a file by size and second, so every version of the file gets a second of its own.
    os.utime(path, (times.st_atime, times.st_mtime + next(_LATER)))
    try:
        yield
    finally:
        path.write_text(right, encoding="utf-8")
        os.utime(path, (times.st_atime, times.st_mtime))
        shutil.rmtree(folder / ".hypothesis", ignore_errors=True)  # else failed examples would be tried on the next bug


class Runner:
    """Runs tests in a copy, one run at a time; see `server`. A context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._output = folder, folder.parent / "output.txt"
        self._server = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("server.py"))],
            cwd=folder,
            env=environment(folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def run(self, selection: str, limit_s: float) -> tuple[int | None, float, str]:
        """pytest's exit status (None past the limit), its seconds, and the end of its output."""
        assert self._server.stdin is not None
        request = {"selection": shlex.split(selection), "limit_s": limit_s, "output": str(self._output)}
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer = self._answer()
        return answer["status"], answer["seconds"], self._output.read_text(encoding="utf-8", errors="replace")[-2000:]

    def _answer(self) -> dict[str, Any]:
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        if not line:
            raise RuntimeError(f"the process that runs tests in {self.folder} ended with {self._server.wait()}")
        return dict(json.loads(line))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process and its children."""
        self._server.terminate()
        self._server.wait()
