"""Calls of the C++ kernels: which path takes a convolution, and its arguments. No tensor is copied without need."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import UsageError
from .. import native
from .geometry import CallGeometry, geometry_of

#: Forces one path: a name of `path_names()`, or "torch".
VARIABLE = "CONVSWAP_BINARY_CONV"

_FARTHEST = 1 << 24  # pixels of a stride, dilation or padding; `sound` in csrc/dispatch.cpp says why
_NUMBERS_PER_THREAD = 32768  # that a copy must hold; below it waking another thread takes longer, as in torch
_LEAST_CHANNELS = 16  # of a group; below it most of every word is empty and torch is faster
_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float64: 2}


class _CGeometry(ctypes.Structure):
    """`struct Geometry` of csrc/binary_conv.h. Channels are those of one group."""

    _names = "n h w groups c o kh kw sh sw dh dw pad_top pad_left oh ow"
    _fields_ = [(name, ctypes.c_int64) for name in _names.split()]


class Plan(NamedTuple):
    """How one convolution is computed."""

    geometry: CallGeometry
    library: ctypes.CDLL | None
    path: int
    name: str
    c_geometry: _CGeometry | None
    address: int
    reason: str | None  #: why not natively; None when natively
    panel_bytes: int = 0  #: of the expanded weights; 0 where the path reads the bits


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, whole, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    library.convswap_binary_path_name.restype = ctypes.c_char_p
    library.convswap_binary_path_name.argtypes = [number]
    library.convswap_binary_path_available.argtypes = [number]
    library.convswap_binary_path_refuses.restype = ctypes.c_char_p
    library.convswap_binary_path_refuses.argtypes = [number, pointer]
    library.convswap_binary_conv2d.argtypes = [pointer, number, *[pointer] * 6, number, pointer, number]
    library.convswap_binary_conv2d_sign.argtypes = [pointer, number, *[pointer] * 6, number]
    library.convswap_binary_panel_bytes.restype = whole
    library.convswap_binary_panel_bytes.argtypes = [pointer, number]
    library.convswap_binary_expand.argtypes = [pointer, number, pointer, pointer, number]
    library.convswap_binary_pack.argtypes = [pointer, number, *[whole] * 9, pointer, pointer, pointer, number]
    library.convswap_binary_to_nchw.argtypes = [pointer, whole, whole, whole, pointer, number]
    return library


@lru_cache(maxsize=8)
def _paths(library: ctypes.CDLL) -> dict[str, tuple[int, bool]]:
    """Name -> (index, whether this machine can run it), best first."""
    _declare(library)
    count = library.convswap_binary_paths()
    return {
        library.convswap_binary_path_name(index).decode(): (index, bool(library.convswap_binary_path_available(index)))
        for index in range(count)
    }


def path_names() -> list[str]:
    """The native paths this machine can run, best first; empty without a library."""
    library = native.library()
    return [] if library is None else [name for name, (_, available) in _paths(library).items() if available]


def plan(
    words: Sequence[int],
    weight: Sequence[int],
    in_channels: int,
    out_channels: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Plan:
    """The path that now computes a convolution of these shapes, by library, processor and `CONVSWAP_BINARY_CONV`.

    Raises:
        ValueError: the shapes do not fit together, or the variable names a path that does not exist here.
    """
    forced = os.environ.get(VARIABLE, "")
    return _plan(
        native.library(), forced, tuple(words), tuple(weight), in_channels, out_channels, tuple(stride),
        tuple(padding), tuple(dilation), groups,
    )  # fmt: skip


@lru_cache(maxsize=4096)
def _plan(
    library: ctypes.CDLL | None,
    forced: str,
    words: tuple[int, ...],
    weight: tuple[int, ...],
    in_channels: int,
    out_channels: int,
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Plan:
    g = geometry_of(words, weight, in_channels, out_channels, stride, padding, dilation, groups)
    if forced == "torch":
        return Plan(g, None, -1, "torch", None, 0, f"{VARIABLE}=torch asks for it")
    if library is None:
        if forced:
            raise UsageError(f"{VARIABLE}={forced!r} cannot be used: {native.why_missing()}")
        return Plan(g, None, -1, "torch", None, 0, f"no library of native kernels: {native.why_missing()}")
    paths = _paths(library)
    if forced and not paths.get(forced, (0, False))[1]:
        problem = "this machine lacks its instructions" if forced in paths else "there is no such path"
        allowed = ", ".join([*(name for name, (_, there) in paths.items() if there), "torch"])
        raise UsageError(f"{VARIABLE}={forced!r} cannot be used: {problem}; choose one of {allowed}")
    if not forced and (reason := _slow(in_channels // groups, groups)):
        return Plan(g, None, -1, "torch", None, 0, reason)
    if g.empty:
        return Plan(g, None, -1, "torch", None, 0, "there is nothing to compute")
    if max(*stride, *padding, *dilation) > _FARTHEST:
        return Plan(g, None, -1, "torch", None, 0, f"a stride, padding or dilation is beyond {_FARTHEST}")
    c_geometry = _CGeometry(
        g.images, *g.size, groups, in_channels // groups, out_channels // groups, *g.kernel, *stride, *dilation,
        padding[2], padding[0], *g.out_size,
    )  # fmt: skip
    address = ctypes.addressof(c_geometry)
    reasons = []
    for name, (index, available) in paths.items():
        if available and name == (forced or name):
            refusal = library.convswap_binary_path_refuses(index, address)
            if refusal is None:
                size = library.convswap_binary_panel_bytes(address, index)
                return Plan(g, library, index, name, c_geometry, address, None, size)
            reasons.append(f"{name}: {refusal.decode()}")
    return Plan(g, None, -1, "torch", None, 0, "; ".join(reasons))


def _slow(channels: int, groups: int) -> str | None:
    if groups > 1 and channels < _LEAST_CHANNELS:
        kind = "a depthwise convolution" if channels == 1 else f"groups of {channels} input channels"
        return (
            f"{kind} would leave most of each 64-channel word empty; torch is faster below {_LEAST_CHANNELS} channels"
        )
    return None


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _panels(way: Plan, panels: Tensor | None) -> int | None:
    """Expanded weights of this call's size. Others are not used; the weights are then expanded for the call."""
    fits = panels is not None and panels.nbytes == way.panel_bytes and panels.device.type == "cpu"
    return _pointer(panels) if fits else None


def conv2d(
    way: Plan,
    words: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    map_: Tensor | None,
    panels: Tensor | None,
    relu: bool,
    out: Tensor,
) -> None:
    """Float epilogue into `out`, float32 (N, OH, OW, O); every tensor contiguous, scale, bias and map in float32."""
    assert way.library is not None
    status = way.library.convswap_binary_conv2d(
        way.address, way.path, words.data_ptr(), weight.data_ptr(), _pointer(scale), _pointer(bias), _pointer(map_),
        out.data_ptr(), relu, _panels(way, panels), torch.get_num_threads(),
    )  # fmt: skip
    native.check(status, "binary_conv2d")


def conv2d_sign(
    way: Plan, words: Tensor, weight: Tensor, threshold: Tensor, flip: Tensor, panels: Tensor | None, out: Tensor
) -> None:
    """Sign epilogue into `out`, int64 (N, OH, OW, words); threshold int32, flip bool, every tensor contiguous."""
    assert way.library is not None
    status = way.library.convswap_binary_conv2d_sign(
        way.address, way.path, words.data_ptr(), weight.data_ptr(), threshold.data_ptr(), flip.data_ptr(),
        out.data_ptr(), _panels(way, panels), torch.get_num_threads(),
    )  # fmt: skip
    native.check(status, "binary_conv2d_sign")


def pack(x: Tensor, threshold: Tensor | None, flip: Tensor | None, groups: int, out: Tensor) -> bool:
    """Bits of x into `out`; False when there is no library or it does not take this precision (float16)."""
    library = native.library()
    kind = _TYPES.get(x.dtype)
    if library is None or kind is None or os.environ.get(VARIABLE, "") == "torch":
        return False
    _paths(library)  # declares the functions
    n, c, h, w = x.shape
    status = library.convswap_binary_pack(
        x.data_ptr(), kind, n, groups, c // groups, h, w, *x.stride(), _pointer(threshold), _pointer(flip),
        out.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    native.check(status, "binary_pack")
    return True


def to_nchw(y: Tensor, out: Tensor) -> bool:
    """A float32 map (N, C, H, W) with the channels last into `out`, channels first; False when there is no library."""
    library = native.library()
    if library is None or os.environ.get(VARIABLE, "") == "torch":
        return False
    _paths(library)  # declares the functions
    n, c, h, w = y.shape
    threads = min(torch.get_num_threads(), 1 + y.numel() // _NUMBERS_PER_THREAD)
    status = library.convswap_binary_to_nchw(y.data_ptr(), n, h * w, c, out.data_ptr(), threads)
    native.check(status, "binary_to_nchw")
    return True


def expand(way: Plan, weight: Tensor) -> Tensor | None:
    """The weights as this path multiplies them (int8, a tag in front), or None if it reads the bits themselves."""
    if way.library is None or not way.panel_bytes:
        return None
    panels = torch.empty(way.panel_bytes, dtype=torch.int8, device="cpu")
    status = way.library.convswap_binary_expand(
        way.address, way.path, weight.data_ptr(), panels.data_ptr(), torch.get_num_threads()
    )
    native.check(status, "binary_expand")
    return panels
