"""Peers that compute with complex numbers. These have no bfloat16 form, so autocast must not reach into such a peer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def without_autocast(forward: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    """A `forward` that runs without autocast, on float32 where it is given bfloat16."""

    @functools.wraps(forward)
    def full(self: Any, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return forward(self, x.float() if x.dtype == torch.bfloat16 else x)

    return full
