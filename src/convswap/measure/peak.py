"""How much memory a forward pass or a training step needs at its peak, beyond the model and its input.

Each measurement runs in a fresh process, so a library's caches and the caller's earlier work are not counted.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import pickle
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import ConvswapError, UsageError, check_choice, check_whole

Build = Callable[[], tuple[nn.Module, Tensor]]
Mode = Literal["inference", "training"]

_STATUS = Path("/proc/self/status")


def peak_memory(build: Build, mode: Mode = "inference", *, threads: int = 1, input_gradient: bool = False) -> int:
    """Bytes that one pass needs at its peak, beyond imports, parameters and the input, in a fresh process.

    The peak counts outputs, tensors kept for the backward pass, gradients and every temporary. A pass over the first
    example of the batch comes before the measurement and is not counted: it loads code and makes what is made once.

    On a processor this is resident memory. It is accurate to a MB or two, so measure sizes well above that. On Linux
    the high-water mark of the process is reset before the pass. Elsewhere the mark only rises: a model that took more
    memory to build than to run hides the pass. A model on CUDA is measured by torch's allocator, exactly.

    Args:
        build: makes the module and its input. It must be picklable: a function of an importable module, or a
            `functools.partial` of one.
        mode: `"inference"`: a forward pass in eval and inference mode. `"training"`: forward in train mode, then
            backward from a random gradient of the output.
        threads: torch's intra-operator threads.
        input_gradient: in training, whether the input gets a gradient, as that of an inner layer does.

    Raises:
        UsageError: an option is not allowed, what is built cannot be measured, or it cannot be found from another
            process.
        ConvswapError: the process ended before it answered.
    """
    check_choice("mode", mode, ("inference", "training"))
    check_whole("threads", threads)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_measure, build, mode, threads, input_gradient).result()
        except BrokenProcessPool as error:
            raise ConvswapError(
                "the process that measures memory ended before it answered. Either it was out of memory, or it could "
                "not start: a script must make this call under `if __name__ == '__main__':`, and the function must be "
                "in a file that can be imported"
            ) from error


@dataclass(frozen=True)
class Memory:
    """Peak bytes of a pass, beyond the model and its input: of an inference, and of a training step."""

    inference: int
    training: int


def memory(model: nn.Module, example_input: Tensor, *, threads: int = 1) -> Memory:
    """Peak memory of an inference and of a training step (forward and backward), each in a fresh process.

    As `peak_memory`, for a model that already exists: the model is sent to the other process. An optimiser's state
    comes on top.

    Args:
        model: a module that can be pickled.
        example_input: the batch, (N, C, H, W).
        threads: torch's intra-operator threads.

    Raises:
        UsageError: the model cannot be sent to another process, or an argument is not allowed.
        ConvswapError: as `peak_memory`.
    """
    if not isinstance(example_input, Tensor) or example_input.ndim == 0 or not example_input.numel():
        found = f"shape {tuple(example_input.shape)}" if isinstance(example_input, Tensor) else type(example_input)
        raise UsageError(f"example_input={found} is not allowed; give a batch of at least one example")
    try:
        payload = pickle.dumps((model, example_input.detach()))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UsageError(
            f"model={type(model).__name__} cannot be sent to another process ({error}); "
            "give peak_memory a function that builds it"
        ) from error
    build = partial(_unpacked, payload)
    return Memory(peak_memory(build, "inference", threads=threads), peak_memory(build, "training", threads=threads))


def _unpacked(payload: bytes) -> tuple[nn.Module, Tensor]:
    try:
        model, example = pickle.loads(payload)  # written by `memory`, in the process that started this one
    except (AttributeError, ImportError) as error:
        raise UsageError(
            f"the model cannot be found from another process ({error}); its class must be in a file that can be "
            "imported, not in a notebook or an interactive session"
        ) from error
    return model, example


def _measure(build: Build, mode: Mode, threads: int, input_gradient: bool) -> int:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    module, x = build()
    if x.is_meta or any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())):
        raise UsageError("a model or input on the meta device has no memory to measure; build it on the CPU or on CUDA")
    module.train(mode == "training")
    step = _train if mode == "training" else _infer
    step(module, x[:1].clone().requires_grad_(mode == "training" and input_gradient))
    module.zero_grad(set_to_none=True)
    x.requires_grad_(mode == "training" and input_gradient)
    gc.collect()
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
        torch.cuda.reset_peak_memory_stats(x.device)
        before = torch.cuda.memory_allocated(x.device)
        step(module, x)
        return torch.cuda.max_memory_allocated(x.device) - before
    before = _settle()
    step(module, x)
    return max(0, _high_water() - before)


def _infer(module: nn.Module, x: Tensor) -> None:
    with torch.inference_mode():
        module(x)


def _train(module: nn.Module, x: Tensor) -> None:
    output = module(x)
    if not isinstance(output, Tensor):
        raise UsageError(f"model returned {type(output).__name__}; a training step is measured from one tensor")
    if output.requires_grad:  # else there is no backward pass
        output.backward(torch.randn_like(output))


def _settle() -> int:
    """Give freed memory back, set the high-water mark back to what is in use, and return it."""
    if not _STATUS.exists():
        return _high_water()
    # Freed pieces that the C library keeps would serve the pass unseen.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _high_water()


def _high_water() -> int:
    """The most resident memory so far, in bytes."""
    if _STATUS.exists():
        # Not `ru_maxrss`: that begins with the size of the process that started this one.
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) << 10
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
