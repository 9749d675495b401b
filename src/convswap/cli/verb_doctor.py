"""`convswap doctor`."""

from __future__ import annotations

NAME = "doctor"


def run() -> None:
    """Say what this machine and installation can do, what is missing, and the cost of each missing part.

    This also works without the lab extra. Paste the output into a bug report.
    """
    from ..doctor import diagnose, format_plain

    print(format_plain(diagnose()))
