"""The C border of the binary convolution, called as it is: no operator and no dispatch between."""

from __future__ import annotations

import ctypes

import torch
from shapes import Call
from torch import Tensor

_GUARD = 64  # numbers before and behind every output that a kernel must not touch


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def output_size(call: Call) -> tuple[int, int]:
    """(rows, columns) of the output."""
    stride, (left, right, top, bottom), dilation, _ = call.where
    rows, columns = call.x.shape[2] + top + bottom, call.x.shape[3] + left + right
    kernel = call.weight.shape[2:]
    return (
        (rows - (kernel[0] - 1) * dilation[0] - 1) // stride[0] + 1,
        (columns - (kernel[1] - 1) * dilation[1] - 1) // stride[1] + 1,
    )


def geometry(call: Call) -> ctypes.Array[ctypes.c_int64]:
    """`struct Geometry` of csrc/binary_conv.h."""
    n, channels, height, width = call.x.shape
    stride, (left, _, top, _), dilation, groups = call.where
    counts = groups, channels // groups, call.weight.shape[0] // groups
    numbers = n, height, width, *counts, *call.weight.shape[2:], *stride, *dilation, top, left, *output_size(call)
    return (ctypes.c_int64 * 16)(*numbers)


def guarded(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Memory for an output, and the same with its guards: all -1."""
    count = int(torch.Size(shape).numel())
    memory = torch.full((count + 2 * _GUARD,), -1, dtype=dtype)
    return memory[_GUARD : _GUARD + count].view(shape), memory


def check_guards(memory: Tensor) -> None:
    """Nothing was written outside the output."""
    assert (memory[:_GUARD] == -1).all()
    assert (memory[-_GUARD:] == -1).all()


class Border:
    """The functions of one built library."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        library.convswap_binary_path_name.restype = ctypes.c_char_p
        library.convswap_binary_panel_bytes.restype = ctypes.c_int64
        count = library.convswap_binary_paths()
        self.paths = {library.convswap_binary_path_name(at).decode(): at for at in range(count)}

    def available(self, path: str) -> bool:
        """Whether this machine runs it."""
        return path in self.paths and bool(self.library.convswap_binary_path_available(self.paths[path]))

    def panels(self, path: str, call: Call, threads: int = 1) -> Tensor | None:
        """The weights expanded once, or None where the path reads the bits."""
        size = self.library.convswap_binary_panel_bytes(geometry(call), self.paths[path])
        if size == 0:
            return None
        panels, memory = guarded((size,), torch.int8)
        expand = self.library.convswap_binary_expand
        assert expand(geometry(call), self.paths[path], _pointer(call.packed), _pointer(panels), threads) == 0
        check_guards(memory)
        return panels

    def conv(
        self,
        path: str,
        call: Call,
        words: Tensor,
        scale: Tensor | None = None,
        bias: Tensor | None = None,
        map_: Tensor | None = None,
        relu: bool = False,
        panels: Tensor | None = None,
        threads: int = 1,
    ) -> Tensor:
        """The float epilogue: (N, out, H', W'), channels last in memory."""
        out, memory = guarded((len(call.x), *output_size(call), call.weight.shape[0]), torch.float32)
        status = self.library.convswap_binary_conv2d(
            geometry(call), self.paths[path], _pointer(words), _pointer(call.packed), _pointer(scale), _pointer(bias),
            _pointer(map_), _pointer(out), int(relu), _pointer(panels), threads,
        )  # fmt: skip
        assert status == 0
        check_guards(memory)
        return out.permute(0, 3, 1, 2)

    def conv_sign(
        self,
        path: str,
        call: Call,
        words: Tensor,
        threshold: Tensor,
        flip: Tensor,
        panels: Tensor | None = None,
        threads: int = 1,
    ) -> Tensor:
        """The sign epilogue: (N, H', W', words of the outputs)."""
        out, memory = guarded((len(call.x), *output_size(call), -(-call.weight.shape[0] // 64)), torch.int64)
        status = self.library.convswap_binary_conv2d_sign(
            geometry(call), self.paths[path], _pointer(words), _pointer(call.packed), _pointer(threshold),
            _pointer(flip), _pointer(out), _pointer(panels), threads,
        )  # fmt: skip
        assert status == 0
        check_guards(memory)
        return out
