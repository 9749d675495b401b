"""When a unit computes by a form of its own for the backward pass."""

from __future__ import annotations

import torch
from torch import Tensor


def wants_gradient(*tensors: Tensor) -> bool:
    """Does one of these tensors need a gradient, so that a form with a backward pass of its own pays?

    `torch.jit.trace` records one graph for all modes, and checks it by a second trace without gradients. It is
    answered False, and so records the plain operations: a traced network is for inference, because autograd
    derives plain rounding and signs as zero.
    """
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors) and not torch.jit.is_tracing()
