"""Compiling Triton kernels for a GPU that is not there: what a launch would run, down to its machine code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _NoDevice:
    """A driver that knows which GPU to compile for and nothing else."""

    def __init__(self, target: Any) -> None:
        self.target = target

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> Any:
        import torch

        return torch.device("cpu")


@contextmanager
def compiled_launches(capability: int = 90) -> Iterator[list[Any]]:
    """Within, every launch compiles for the GPU instead of running, with the very arguments it was given.

    Yields:
        The compiled kernels in order; `kernel.asm` holds "ttir", "ptx", "cubin" and more.
    """
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    found: list[Any] = []
    item = JITFunction.__getitem__

    def compile_only(kernel: Any, grid: Any) -> Any:
        return lambda *args, **kwargs: found.append(kernel.run(*args, grid=grid, warmup=True, **kwargs))

    before = driver._active
    driver.set_active(_NoDevice(GPUTarget("cuda", capability, 32)))
    JITFunction.__getitem__ = compile_only  # type: ignore[method-assign]
    try:
        yield found
    finally:
        JITFunction.__getitem__ = item  # type: ignore[method-assign]
        driver._active = before
