"""The operators `convswap::binary_pack`, `binary_conv2d`, `binary_conv2d_sign` and `binary_to_nchw`: kernels, shapes,
gradient, cost.

On a CPU the C++ kernels compute them where they can, else torch with the same numbers. On a GPU the Triton kernels
compute them where they can, else torch. Layouts: `csrc/binary_conv.h`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ...errors import UsageError
from ..shapes import output_size
from . import native_calls, triton_kernel
from .geometry import geometry_of
from .packing import bits_to_words, pack_activations, unpack_activations, unpack_weight, words_for
from .reference import count_dots, epilogue

_library = torch.library.Library("convswap", "FRAGMENT")
_TAGS = (torch.Tag.pt2_compliant_tag,)
_GEOMETRY = "int in_channels, int out_channels, int[2] stride, int[4] padding, int[2] dilation, int groups"
_library.define("binary_pack(Tensor x, Tensor? threshold, Tensor? flip, int groups) -> Tensor", tags=_TAGS)
_library.define(
    "binary_conv2d(Tensor words, Tensor weight, Tensor scale, Tensor? bias, Tensor? map, Tensor? panels, "
    + _GEOMETRY
    + ", bool relu) -> Tensor",
    tags=_TAGS,
)
_library.define(
    "binary_conv2d_sign(Tensor words, Tensor weight, Tensor threshold, Tensor flip, Tensor? panels, "
    + _GEOMETRY
    + ") -> Tensor",
    tags=_TAGS,
)
_library.define("binary_to_nchw(Tensor y) -> Tensor", tags=_TAGS)

binary_pack = torch.ops.convswap.binary_pack.default
binary_conv2d = torch.ops.convswap.binary_conv2d.default
binary_conv2d_sign = torch.ops.convswap.binary_conv2d_sign.default
binary_to_nchw = torch.ops.convswap.binary_to_nchw.default


def _whole(tensor: Tensor | None) -> Tensor | None:
    return tensor if tensor is None or tensor.is_contiguous() else tensor.contiguous()


def _check_pack(x: Tensor, threshold: Tensor | None, flip: Tensor | None, groups: int) -> None:
    if x.dim() != 4 or groups < 1 or x.shape[1] % groups or not x.shape[1] or not x.is_floating_point():
        raise UsageError(f"x of shape {tuple(x.shape)} and {x.dtype} is not allowed; give floating-point numbers "
                         f"(N, C, H, W), C a multiple of groups={groups}")  # fmt: skip
    for name, given in (("threshold", threshold), ("flip", flip)):
        if given is not None and given.shape != x.shape[1:2]:
            raise UsageError(f"{name} of shape {tuple(given.shape)} is not allowed; give ({x.shape[1]},)")


def _pack_cpu(x: Tensor, threshold: Tensor | None, flip: Tensor | None, groups: int) -> Tensor:
    _check_pack(x, threshold, flip, groups)
    n, c, h, w = x.shape
    out = torch.empty((n, h, w, groups * words_for(c // groups)), dtype=torch.int64, device="cpu")
    if out.numel() == 0:
        return out
    if x.dtype == torch.float16:
        x = x.float()
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    if threshold is not None and (threshold.dtype != kind or not threshold.is_contiguous()):
        threshold = threshold.to(kind).contiguous()
    if flip is not None and (flip.dtype != torch.bool or not flip.is_contiguous()):
        flip = flip.to(torch.bool).contiguous()
    if x.is_neg() or not native_calls.pack(x, threshold, flip, groups, out):
        return pack_activations(x, threshold, flip, groups)
    return out


def _pack_cuda(x: Tensor, threshold: Tensor | None, flip: Tensor | None, groups: int) -> Tensor:
    _check_pack(x, threshold, flip, groups)
    if x.numel() and triton_kernel.available():
        return triton_kernel.pack(x, threshold, flip, groups)
    return pack_activations(x, threshold, flip, groups)


def _pack_fake(x: Tensor, threshold: Tensor | None, flip: Tensor | None, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.new_empty((n, h, w, groups * words_for(c // groups)), dtype=torch.int64)


def _dots_torch(words: Tensor, weight: Tensor, in_channels: int, out_channels: int, *where: Any) -> Tensor:
    x = unpack_activations(words, in_channels, where[-1])
    signs = unpack_weight(weight, out_channels, in_channels)
    with torch.autocast(words.device.type, enabled=False):
        return count_dots(x, signs, *where)


def _finish(dots: Tensor, scale: Tensor, bias: Tensor | None, map_: Tensor | None, relu: bool) -> Tensor:
    """Scales in float32 or better, rounded to scale's precision once."""
    dtype = torch.promote_types(scale.dtype, torch.float32)
    scale_, bias_, map_ = (None if t is None else t.to(dtype) for t in (scale, bias, map_))
    y = epilogue(dots.to(dtype), scale_, bias_, map_, relu).to(scale.dtype)
    return y.contiguous(memory_format=torch.channels_last)


def _conv2d_cpu(
    words: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    map: Tensor | None,
    panels: Tensor | None,
    in_channels: int,
    out_channels: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    relu: bool,
) -> Tensor:
    where = stride, padding, dilation, groups
    _check_bits(words, weight)
    way = native_calls.plan(words.shape, weight.shape, in_channels, out_channels, *where)
    g = way.geometry
    _check_parameters(out_channels, scale=scale, bias=bias)
    if map is not None and map.shape != (g.images, *g.out_size):
        raise UsageError(f"map of shape {tuple(map.shape)} is not allowed; give {(g.images, *g.out_size)}")
    if g.empty:
        return _empty(g.images, out_channels, *g.out_size, scale)
    if way.library is None:
        return _finish(_dots_torch(words, weight, in_channels, out_channels, *where), scale, bias, map, relu)
    words, weight, panels = _whole(words), _whole(weight), _whole(panels)  # type: ignore[assignment]
    out = torch.empty((g.images, *g.out_size, out_channels), dtype=torch.float32, device="cpu")
    single = scale.dtype == torch.float32 and (bias is None or bias.dtype == torch.float32)
    if single and (map is None or map.dtype == torch.float32):
        native_calls.conv2d(way, words, weight, _whole(scale), _whole(bias), _whole(map), panels, relu, out)
        return out.permute(0, 3, 1, 2)
    native_calls.conv2d(way, words, weight, None, None, None, panels, False, out)
    return _finish(out.permute(0, 3, 1, 2), scale, bias, map, relu)


def _check_bits(words: Tensor, weight: Tensor) -> None:
    for name, tensor in (("words", words), ("weight", weight)):
        if tensor.dtype != torch.int64:
            raise UsageError(f"{name} of {tensor.dtype} is not allowed; give int64, as binary_pack and pack_weight do")


def _check_parameters(out_channels: int, **given: Tensor | None) -> None:
    for name, tensor in given.items():
        if tensor is not None and tensor.shape != (out_channels,):
            raise UsageError(f"{name} of shape {tuple(tensor.shape)} is not allowed; give ({out_channels},)")


def _empty(n: int, channels: int, rows: int, columns: int, like: Tensor) -> Tensor:
    return like.new_empty((n, rows, columns, channels)).permute(0, 3, 1, 2)


def _conv2d_cuda(words: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, map: Tensor | None,
                 panels: Tensor | None, *rest: Any) -> Tensor:  # fmt: skip
    in_channels, out_channels, stride, padding, dilation, groups, relu = rest
    _check_bits(words, weight)
    g = geometry_of(words.shape, weight.shape, in_channels, out_channels, stride, padding, dilation, groups)
    fits = triton_kernel.available() and triton_kernel.supports(in_channels, out_channels, groups, g.kernel) is None
    if fits and not g.empty:
        return triton_kernel.conv2d(words, weight, scale, bias, map, *rest)
    return _finish(_dots_torch(words, weight, *rest[:-1]), scale, bias, map, relu)


def _conv2d_fake(words: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, map: Tensor | None,
                 panels: Tensor | None, in_channels: int, out_channels: int, stride: Sequence[int],
                 padding: Sequence[int], dilation: Sequence[int], groups: int, relu: bool) -> Tensor:  # fmt: skip
    size = output_size(words.shape[1:3], weight.shape[2:4], stride, padding, dilation)
    return _empty(words.shape[0], out_channels, *size, scale)


def _sign_torch(words: Tensor, weight: Tensor, threshold: Tensor, flip: Tensor, panels: Tensor | None,
                in_channels: int, out_channels: int, *where: Any) -> Tensor:  # fmt: skip
    geometry_of(words.shape, weight.shape, in_channels, out_channels, *where)
    dots = _dots_torch(words, weight, in_channels, out_channels, *where).permute(0, 2, 3, 1)
    return bits_to_words((dots.to(torch.int64) >= threshold) ^ flip)


def _sign_cpu(words: Tensor, weight: Tensor, threshold: Tensor, flip: Tensor, panels: Tensor | None,
              in_channels: int, out_channels: int, *where: Any) -> Tensor:  # fmt: skip
    _check_bits(words, weight)
    way = native_calls.plan(words.shape, weight.shape, in_channels, out_channels, *where)
    g = way.geometry
    _check_parameters(out_channels, threshold=threshold, flip=flip)
    if threshold.dtype != torch.int32 or flip.dtype != torch.bool:
        raise UsageError(
            f"threshold of {threshold.dtype} and flip of {flip.dtype} are not allowed; give int32 and bool"
        )
    if g.empty:
        return words.new_empty((g.images, *g.out_size, words_for(out_channels)))
    if way.library is None or _splits_bytes(out_channels, where[-1]):
        return _sign_torch(words, weight, threshold, flip, panels, in_channels, out_channels, *where)
    words, weight, threshold, flip = (
        t if t.is_contiguous() else t.contiguous() for t in (words, weight, threshold, flip)
    )
    out = torch.empty((g.images, *g.out_size, words_for(out_channels)), dtype=torch.int64, device="cpu")
    native_calls.conv2d_sign(way, words, weight, threshold, flip, _whole(panels), out)
    return out


def _splits_bytes(out_channels: int, groups: int) -> bool:
    return groups > 1 and out_channels // groups % 8 != 0


def _sign_cuda(words: Tensor, weight: Tensor, threshold: Tensor, flip: Tensor, panels: Tensor | None,
               *rest: Any) -> Tensor:  # fmt: skip
    in_channels, out_channels, *where = rest
    _check_bits(words, weight)
    g = geometry_of(words.shape, weight.shape, in_channels, out_channels, *where)
    fits = triton_kernel.available() and triton_kernel.supports(in_channels, out_channels, where[-1], g.kernel) is None
    if fits and not g.empty:
        return triton_kernel.conv2d_sign(words, weight, threshold, flip, *rest)
    return _sign_torch(words, weight, threshold, flip, panels, *rest)


def _sign_fake(words: Tensor, weight: Tensor, threshold: Tensor, flip: Tensor, panels: Tensor | None,
               in_channels: int, out_channels: int, *where: Any) -> Tensor:  # fmt: skip
    size = output_size(words.shape[1:3], weight.shape[2:4], *where[:3])
    return words.new_empty((words.shape[0], *size, words_for(out_channels)))


def _to_nchw_torch(y: Tensor) -> Tensor:
    return y.clone(memory_format=torch.contiguous_format)


def _to_nchw_cpu(y: Tensor) -> Tensor:
    """Copy to the other layout. Torch copies number by number, which can take longer than the convolution."""
    last = y.dim() == 4 and y.is_contiguous(memory_format=torch.channels_last)
    if y.dtype == torch.float32 and last and y.numel() and not y.is_neg():
        out = torch.empty(y.shape, dtype=torch.float32, device="cpu")
        if native_calls.to_nchw(y, out):
            return out
    return _to_nchw_torch(y)


def _to_nchw_fake(y: Tensor) -> Tensor:
    return torch.empty_like(y, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    words, weight, scale, bias, map_, panels, *ctx.geometry, ctx.relu = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(words, weight, scale, map_, panels, output if ctx.relu else None)


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of scale, bias and map; the bits have none."""
    words, weight, scale, map_, panels, output = ctx.saved_tensors
    dtype = torch.promote_types(scale.dtype, torch.float32)
    g = gradient.to(dtype)
    if output is not None:
        g = g * (output > 0)
    d_bias = g.sum((0, 2, 3)).to(ctx.bias_dtype) if ctx.needs_input_grad[3] else None
    d_scale = d_map = None
    if ctx.needs_input_grad[2] or ctx.needs_input_grad[4]:
        ones = torch.ones_like(scale, dtype=dtype)
        product = g * binary_conv2d(words, weight, ones, None, None, panels, *ctx.geometry, False)
        if ctx.needs_input_grad[4]:
            d_map = (product * scale.to(dtype)[:, None, None]).sum(1).to(map_.dtype)
        if map_ is not None:
            product = product * map_.to(dtype)[:, None]
        d_scale = product.sum((0, 2, 3)).to(scale.dtype)
    return None, None, d_scale, d_bias, d_map, *[None] * 8


for _name, _cpu, _cuda, _fake in (
    ("binary_pack", _pack_cpu, _pack_cuda, _pack_fake),
    ("binary_conv2d", _conv2d_cpu, _conv2d_cuda, _conv2d_fake),
    ("binary_conv2d_sign", _sign_cpu, _sign_cuda, _sign_fake),
    ("binary_to_nchw", _to_nchw_cpu, _to_nchw_torch, _to_nchw_fake),
):
    _library.impl(_name, _cpu, "CPU")
    _library.impl(_name, _cuda, "CUDA")
    torch.library.register_fake(f"convswap::{_name}", _fake, lib=_library)
torch.library.register_autograd("convswap::binary_conv2d", _gradients, setup_context=_save, lib=_library)
torch.library.register_autograd("convswap::binary_to_nchw", lambda _, gradient: gradient, lib=_library)


@cache
def register_flops() -> None:
    """Tell `torch.utils.flop_counter` the binary operations: one XNOR and one addition per weight and output pixel.

    The number equals that of the float convolution, but the operations are far cheaper. Packing costs only comparisons,
    which are not counted. This is called when a packed module is made, because importing the counter takes a tenth of a
    second.
    """
    from torch.utils.flop_counter import register_flop_formula

    def count(words: Sequence[int], weight: Sequence[int], in_channels: int, out_channels: int, *where: Any) -> int:
        stride, padding, dilation, groups = where
        rows, columns = output_size(words[1:3], weight[2:4], stride, padding, dilation)
        return 2 * words[0] * rows * columns * out_channels * (in_channels // groups) * weight[2] * weight[3]

    @register_flop_formula(torch.ops.convswap.binary_conv2d)
    def _(words: Sequence[int], weight: Sequence[int], scale: Any, bias: Any, map_: Any, panels: Any, *rest: Any,
          out_shape: Any = None, **_: Any) -> int:  # fmt: skip
        return count(words, weight, *rest[:6])

    @register_flop_formula(torch.ops.convswap.binary_conv2d_sign)
    def _(words: Sequence[int], weight: Sequence[int], threshold: Any, flip: Any, panels: Any, *rest: Any,
          out_shape: Any = None, **_: Any) -> int:  # fmt: skip
        return count(words, weight, *rest[:6])

    @register_flop_formula(torch.ops.convswap.binary_pack)
    def _(*_: Any, **__: Any) -> int:
        return 0
