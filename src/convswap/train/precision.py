"""Choosing the device and the precision to compute in."""

from __future__ import annotations

import re
from typing import Any

import torch

from ..errors import UsageError, check_choice


def resolve_device(device: str) -> torch.device:
    """The device of `"auto"` (the first CUDA GPU if there is one, else the CPU), `"cpu"`, `"cuda:1"`, `"mps"`, ...

    Apple's `mps` is used only when asked for: it lacks float64 and some of the units' operators.

    Raises:
        UsageError: there is no such kind of device, or this machine does not have it.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if re.fullmatch(r"cpu|mps|cuda(:\d+)?", device) is None:
        raise UsageError(f"device={device!r} is not allowed; choose 'auto', 'cpu', 'cuda', 'cuda:<number>' or 'mps'")
    found = torch.device(device)
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device={device!r} is not there: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices"
        )
    if found.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device='mps' is not there: it needs a Mac with an Apple GPU; use device='cpu'")
    return found


def has_fast_bf16(device: torch.device) -> bool:
    """Does the hardware compute in bfloat16? Other hardware emulates it, more slowly than float32.

    On a CPU this needs the instructions AVX512_BF16 (Intel since Cooper Lake, AMD since Zen 4, AMX chips too). A
    ResNet-20 then trains about 1.6 times faster than in float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def resolve_precision(precision: str, device: torch.device) -> str:
    """`"bf16"`, `"fp16"` or `"fp32"`. The hardware decides for `"auto"`, and never for fp16.

    Raises:
        UsageError: fp16 without a CUDA GPU. Its loss must be scaled, which torch does there.
    """
    check_choice("precision", precision, ("auto", "bf16", "fp16", "fp32"))
    if precision == "fp16" and device.type != "cuda":
        raise UsageError(
            f"precision='fp16' needs a CUDA GPU, and this is device='{device.type}'; give precision='bf16' or 'auto'"
        )
    if precision != "auto":
        return precision
    return "bf16" if has_fast_bf16(device) else "fp32"


_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def autocast(precision: str, device: torch.device) -> Any:
    """The autocast context of a resolved precision. For `"fp32"` it does nothing."""
    if precision == "fp32":
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=False)
    return torch.autocast(device.type, dtype=_DTYPES[precision])


def input_dtype(precision: str) -> torch.dtype:
    """The dtype of the input images: autocast rounds them to this at the first convolution anyway."""
    return _DTYPES[precision]
