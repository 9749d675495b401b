"""Runs pytest in forks of a process that has loaded the slow libraries: a run costs its tests, not `import torch`.

Started by `copies.Runner` in a copy of the tree. A line on stdin is a run, `{"selection": [...], "limit_s": 60,
"output": "file"}`; the answer on stdout is `{"status": 0, "seconds": 1.5}`, status None past the limit.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import time
from typing import Any, NoReturn

SLOW = (
    *("pytest", "hypothesis", "numpy", "torch", "torch._dynamo", "torch.export", "torch.utils.flop_counter"),
    *("torchvision", "timm", "lightning_fabric", "safetensors.torch", "scipy.special", "sklearn.datasets"),
    *("PIL.Image", "typer", "rich.console"),
)


def run(selection: list[str], limit_s: float, output: str) -> dict[str, Any]:
    """One run of pytest in a fork. At the limit the fork and everything it started are ended."""
    start = time.perf_counter()
    child = os.fork()
    if child == 0:
        _be_pytest(selection, output)
    signal.signal(signal.SIGTERM, lambda number, frame: _end_both(child))
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        seconds = time.perf_counter() - start
        if ended:
            return {"status": os.waitstatus_to_exitcode(status), "seconds": seconds}
        if seconds > limit_s:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return {"status": None, "seconds": seconds}
        time.sleep(0.05)


def _end_both(child: int) -> NoReturn:
    with contextlib.suppress(ProcessLookupError):  # it has ended, or has no group of its own yet
        os.killpg(child, signal.SIGKILL)
    os._exit(0)


def _be_pytest(selection: list[str], output: str) -> None:
    status = 70  # if pytest itself breaks
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        file, nothing = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), os.open(os.devnull, os.O_RDONLY)
        for target, source in ((0, nothing), (1, file), (2, file)):
            os.dup2(source, target)
        import pytest

        status = int(pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", *selection]))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    sys.path.insert(0, os.getcwd())
    for name in SLOW:
        try:
            importlib.import_module(name)
        except ImportError:
            continue  # not every environment has all of them; the tests say what they need
    if "convswap" in sys.modules:
        raise SystemExit("a library has imported convswap: its forks would not see the bugs")
    print(json.dumps({"ready": True}), flush=True)
    with contextlib.suppress(BrokenPipeError):  # whoever asked has been stopped
        for line in sys.stdin:
            print(json.dumps(run(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
