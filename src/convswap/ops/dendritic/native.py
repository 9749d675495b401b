"""The dendritic convolution by the native kernels in `csrc/`: for float32 on a processor, any geometry and layout.

Environment variable `CONVSWAP_DENDRITIC_CONV`: `avx512`, `avx2` or `portable` allows only that path, and `torch` none
of them. Unset or empty takes the best path of this processor (AVX2 before AVX-512 where a group has at most 8
outputs). It is read at every call.

Values that are not finite: the output equals the reference's, with one exception. Where a dendrite's bias is plus
infinity or NaN, every output whose window touches padding is NaN. The gradient of the weights of an input channel that
holds an infinity may be NaN where the reference has a number, because places outside the output are multiplied by 0.
All else agrees.

For the same number of threads a call gives the same bits every time.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ...errors import ConvswapError, UsageError
from .. import native as house
from ..memory_format import memory_format
from ..shapes import output_size

VARIABLE = "CONVSWAP_DENDRITIC_CONV"
PATHS = {"avx512": 1, "avx2": 2, "portable": 3}
_BEST, _TORCH = 0, -1
_CODES = {"": _BEST, "torch": _TORCH, **PATHS}


def why_not(x: Tensor, weight: Tensor, bias: Tensor) -> str | None:
    """Why torch has to compute this; None when the native kernels do.

    Raises:
        ValueError: the environment variable names a path that does not exist or that this processor lacks.
    """
    code = _asked()
    if x.device.type != "cpu":
        return f"x is on {x.device.type}; the native kernels are for processors"
    if not x.dtype == weight.dtype == bias.dtype == torch.float32:
        kinds = f"{x.dtype}, {weight.dtype} and {bias.dtype}"
        return f"x, weight and bias are {kinds}; the native kernels are for float32"
    if code == _TORCH:
        return f"{VARIABLE}=torch asks for torch"
    if _library() is None:
        return f"there are no native kernels: {_missing()}"
    if not x.numel():
        return "there is nothing to compute"
    return None


def path() -> str | None:
    """The path that now runs, `"avx512"`, `"avx2"` or `"portable"`; None when torch computes.

    Raises:
        ValueError: as `why_not`.
    """
    code, library = _asked(), _library()
    if code == _TORCH or library is None:
        return None
    found = library.convswap_dendritic_path(code)
    return next(name for name, number in PATHS.items() if number == found)


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    output_bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """As `chunked.forward`, where `why_not` is None."""
    out = output_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    y = torch.empty((x.shape[0], weight.shape[0], *out), dtype=x.dtype, device="cpu", memory_format=memory_format(x))
    if not y.numel():
        return y
    weight, bias = weight.contiguous(), bias.contiguous()
    if output_bias is not None:
        output_bias = output_bias.to(torch.float32).contiguous()
    geometry = _geometry(x, y, x, weight, bias, out, stride, padding, dilation, groups)
    last = None if output_bias is None else output_bias.data_ptr()
    pointers = x.data_ptr(), weight.data_ptr(), bias.data_ptr(), last, y.data_ptr()
    house.check(_loaded().convswap_dendritic_forward(_asked(), geometry, *pointers), "dendritic_conv2d")
    return y


def backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    needs: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """As `chunked.backward`, where `why_not` is None."""
    dx = torch.empty_like(x, memory_format=memory_format(x)) if needs[0] else None
    dw = torch.zeros(weight.shape, dtype=x.dtype, device="cpu") if needs[1] else None
    db = torch.zeros(bias.shape, dtype=x.dtype, device="cpu") if needs[2] else None
    if not gradient.numel():
        return None if dx is None else dx.zero_(), dw, db
    if not any(needs):
        return dx, dw, db
    weight, bias, gradient = weight.contiguous(), bias.contiguous(), gradient.to(torch.float32)
    like = x if dx is None else dx
    out = gradient.shape[2:]
    geometry = _geometry(x, gradient, like, weight, bias, out, stride, padding, dilation, groups)
    pointers = (t.data_ptr() for t in (gradient, x, weight, bias))
    targets = (None if t is None else t.data_ptr() for t in (dx, dw, db))
    status = _loaded().convswap_dendritic_backward(_asked(), geometry, *pointers, *targets)
    house.check(status, "dendritic_conv2d_backward")
    return dx, dw, db


_Geometry = ctypes.c_int64 * 30  # `Geometry` of csrc/plan.h


def _geometry(
    x: Tensor,
    y: Tensor,
    dx: Tensor,
    weight: Tensor,
    bias: Tensor,
    out: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> ctypes.Array[ctypes.c_int64]:
    images, _, *size = x.shape
    outputs, inputs, *kernel = weight.shape
    sizes = (*size, *out, *kernel, *stride, padding[2], padding[0], *dilation)
    strides = (*x.stride(), *y.stride(), *dx.stride())
    last = bias.dim() == 4, *strides, torch.get_num_threads()
    return _Geometry(images, groups, inputs, outputs // groups, *sizes, *last)


def _asked() -> int:
    """The number of the path that the environment asks for."""
    name = os.environ.get(VARIABLE, "")
    code = _CODES.get(name)
    if code is None:
        raise UsageError(f"{VARIABLE}={name!r} is not allowed; give {', '.join(PATHS)} or torch, or leave it unset")
    if code > _BEST and not _has(code):
        raise UsageError(f"{VARIABLE}={name!r} is not allowed: {_lacking(name)}")
    return code


def _has(code: int) -> bool:
    library = _library()
    return library is not None and bool(library.convswap_dendritic_path(code))


def _lacking(name: str) -> str:
    if _library() is None:
        return f"there are no native kernels: {_missing()}"
    return f"this processor lacks the instructions of {name}"


def _missing() -> str:
    return house.why_missing() or "the library was built without them"


def _library() -> ctypes.CDLL | None:
    library = house.library()
    return None if library is None or not _declare(library) else library


def _loaded() -> Any:
    library = _library()
    if library is None:
        raise ConvswapError(f"there are no native kernels: {_missing()}")
    return library


@cache
def _declare(library: ctypes.CDLL) -> bool:
    """Tell ctypes the arguments, once; False for a library without these kernels."""
    number, pointer = ctypes.c_int64, ctypes.c_void_p
    try:
        library.convswap_dendritic_path.argtypes = [number]
        library.convswap_dendritic_path.restype = number
        library.convswap_dendritic_forward.argtypes = [number, *[pointer] * 6]
        library.convswap_dendritic_backward.argtypes = [number, *[pointer] * 8]
    except AttributeError:
        return False
    return True
