"""Activation checkpointing: training memory for time. Parts run again in the backward pass, with one trace only.

`torch.utils.checkpoint` runs a part a second time to get back what its backward pass needs. A BatchNorm in the part
would then count every batch twice: its momentum of 0.1 would act as 0.19. Here the second run reads and writes copies
of the buffers as they were before the first run. So the recomputed values are those of the first run, and running
statistics move once per step.

Networks follow timm's convention: `model.set_grad_checkpointing()` turns checkpointing on. It acts in training mode,
where gradients are recorded. Results stay the same, up to the order in which gradients are summed. Under autocast the
second run has the precision of the first. A compiled model is checkpointed by the compiler, which repeats no effect on
buffers. DDP works.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Contexts = tuple[AbstractContextManager[None], AbstractContextManager[None]]


def checkpointed(function: Callable[..., Tensor], *tensors: Tensor, modules: Iterable[nn.Module]) -> Tensor:
    """`function(*tensors)`, whose intermediate results are computed again in the backward pass.

    Args:
        function: what is run. It gives one tensor.
        tensors: its inputs, which are kept.
        modules: everything that `function` calls. Their buffers change once.
    """
    if torch.compiler.is_compiling():
        return checkpoint(function, *tensors, use_reentrant=False)
    held = [module for root in modules for module in root.modules()]
    return checkpoint(function, *tensors, use_reentrant=False, context_fn=lambda: _contexts(held))


def checkpointed_stage(stage: nn.Module, x_NCHW: Tensor) -> Tensor:
    """Run a stage. Only what passes between the modules of an `nn.Sequential` is kept for the backward pass."""
    for module in stage if isinstance(stage, nn.Sequential) else (stage,):
        x_NCHW = checkpointed(module, x_NCHW, modules=(module,))
    return x_NCHW


def _contexts(modules: list[nn.Module]) -> Contexts:
    return nullcontext(), _Replayed(modules)


class _Replayed:
    """Lets modules work on copies of their buffers as they are now, then gives them their own back. For many uses."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.before = [
            (module, name, tensor.clone())
            for module in modules
            for name, tensor in module._buffers.items()
            if tensor is not None
        ]

    def __enter__(self) -> None:
        self.own = [module._buffers[name] for module, name, _ in self.before]
        for module, name, before in self.before:
            module._buffers[name] = before.clone()

    def __exit__(self, *_exception: object) -> None:
        for (module, name, _), own in zip(self.before, self.own, strict=True):
            module._buffers[name] = own
