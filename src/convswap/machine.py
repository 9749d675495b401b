"""What this process may use of its machine."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """The processor cores this process may run on: a container or `taskset` often allows fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
