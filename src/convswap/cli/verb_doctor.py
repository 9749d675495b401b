"""`convswap doctor`."""

from __future__ import annotations

NAME = "doctor"


def run() -> None:
    """Say what this machine and installation can do, what is missing, and what each missing thing costs.

    Works without the lab extra, too. Paste its output into a bug report.
    """
    from ..doctor import diagnose, format_plain

    print(format_plain(diagnose()))
