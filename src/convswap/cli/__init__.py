"""The command line: parses, calls the public functions, prints.

Nothing heavy is imported here, so `convswap --help` does not wait for a model library. With the core of convswap alone
the command exists, too, and says what is missing.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Sequence

from .._version import __version__
from .failure import as_failure
from .streams import each_warning_once, show_any_text

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    The codes are 0 (done), 1 (the run failed), 2 (the command line is wrong) and 130 (interrupted). Every expected
    failure is one line on stderr. A programming error keeps its traceback.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    show_any_text()
    try:
        with each_warning_once():
            return _run(arguments or ["--help"])
    except BrokenPipeError:
        sys.stdout = open("/dev/null", "w")  # noqa: SIM115 - the reader is gone (`convswap units | head`)
        return 1
    except BaseException as error:
        failure = as_failure(error)
        if failure is None:
            raise
        if isinstance(error, KeyboardInterrupt) and argv is None:
            _ignore_interrupts()
        with contextlib.suppress(OSError):  # after SIGHUP the terminal is gone, and nobody reads
            sys.stdout.flush()
            print(f"convswap: {failure}", file=sys.stderr)
        return failure.code


def _ignore_interrupts() -> None:
    """Let a second Ctrl-C, while the program says how to resume and ends, change nothing."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run(arguments: list[str]) -> int:
    if arguments == ["--version"]:
        print(f"convswap {__version__}")
        return 0
    try:
        from .app import invoke
    except ModuleNotFoundError as error:
        if arguments != ["doctor"] or as_failure(error) is None:
            raise
        return _bare_doctor()
    return invoke(arguments)


def _bare_doctor() -> int:
    """`doctor` without the lab extra: the verb that says what is missing must not need what is missing."""
    from ..doctor import diagnose, format_plain

    print(format_plain(diagnose()))
    return 0
