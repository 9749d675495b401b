"""Whether the Triton kernels can be used: asked before every call on a GPU, answered without importing triton."""

from __future__ import annotations

import importlib.util
import os
from functools import cache

SWITCH = "CONVSWAP_TRITON"


def why_missing() -> str | None:
    """Why no operator uses its Triton kernels, or None if they are used for tensors on a GPU.

    The environment variable `CONVSWAP_TRITON` set to 0 switches them off; it is read at every call.
    """
    if os.environ.get(SWITCH, "1").strip().lower() in ("0", "off", "false"):
        return f"switched off by {SWITCH}={os.environ[SWITCH]}"
    return None if _installed() else "triton is not installed"


@cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None
