"""Whether and where the Triton kernels run. Every call on a GPU asks this, and the answer needs no import of triton."""

from __future__ import annotations

import importlib.util
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import Tensor


def why_missing() -> str | None:
    """Why no operator uses its Triton kernels, or None if they are used for tensors on a GPU.

    The environment variable `CONVSWAP_TRITON` set to 0 (or no, off, false) switches them off; it is read at every call.
    """
    from .native.build import why_switched_off  # late, as `python -m` warns about a module that is imported already

    return why_switched_off("CONVSWAP_TRITON") or (None if _installed() else "triton is not installed")


@cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def on_device_of(x: Tensor) -> AbstractContextManager[object]:
    """Make the device of x the current one, because Triton launches on the current device."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
