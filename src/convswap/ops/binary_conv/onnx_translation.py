"""The operators in ONNX: signs and `Conv`. For `torch.onnx.export(..., dynamo=True, custom_translation_table=...)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .packing import BLOCK, WORD, words_for

_SIGNS = "convswap_signs"
_FLOAT, _INT64, _DOUBLE = 1, 7, 11  # of onnx.TensorProto, whose import takes long


def onnx_translations() -> dict[Any, Callable[..., Any]]:
    """What `torch.onnx.export` needs to write packed modules: its `custom_translation_table`.

    Signs become a comparison (`GreaterOrEqual`, `Where`: unlike `Sign` it has no 0) and the sum becomes a `Conv`. The
    weights are written as bits, 1 each. The graph unpacks them, which runtimes do once when they load it. That holds
    with `optimize=False`: torch's own optimisation of the graph, its default, unpacks layers of less than some 260,000
    weights and writes 64 bits for each. Between packing and convolution the graph passes the numbers +-1. Words are
    formed only where something else reads them.

    Raises:
        ImportError: onnxscript is not installed.
    """
    import onnxscript  # noqa: F401

    return {
        torch.ops.convswap.binary_pack.default: _pack,
        torch.ops.convswap.binary_conv2d.default: _conv2d,
        torch.ops.convswap.binary_conv2d_sign.default: _conv2d_sign,
    }


def _op() -> Any:
    from onnxscript import opset18

    return opset18


def _constant(values: Any, dtype: torch.dtype) -> Any:
    import onnx

    kind = {torch.int64: _INT64, torch.float32: _FLOAT}[dtype]
    tensor = torch.tensor(values, dtype=dtype)
    return _op().Constant(value=onnx.helper.make_tensor("", kind, tuple(tensor.shape), tensor.flatten().tolist()))


def _powers() -> Any:
    return _constant([1 << i if i < WORD - 1 else -(1 << i) for i in range(WORD)], torch.int64)


def _whole(values: Sequence[int]) -> Any:
    return _constant(list(values), torch.int64)


def _whole_number(value: int) -> Any:
    return _constant(value, torch.int64)


def _per_channel(op: Any, value: Any) -> Any:
    return op.Reshape(value, _whole([1, -1, 1, 1]))


def _as_signs(op: Any, bits: Any) -> Any:
    return op.Where(bits, _constant(1.0, torch.float32), _constant(-1.0, torch.float32))


def _keep(op: Any, bits: Any, groups: int, channels: int) -> Any:
    """bool (N, C, H, W) -> words, which remember the signs they hold."""
    words = words_for(channels // groups)
    pixels = op.Cast(op.Transpose(bits, perm=[0, 2, 3, 1]), to=_INT64)
    images_rows_columns = op.Slice(op.Shape(pixels), _whole([0]), _whole([3]))
    split = op.Reshape(pixels, op.Concat(images_rows_columns, _whole([groups, channels // groups]), axis=0))
    missing = words * WORD - channels // groups
    padded = op.Pad(split, _whole([0, 0, 0, 0, 0, 0, 0, 0, 0, missing]))
    each = op.Reshape(padded, op.Concat(images_rows_columns, _whole([groups * words, 4, 16]), axis=0))
    # Sixteen bits at a time: runtimes sum integers in double precision, which does not hold 64 of them.
    sums = op.ReduceSum(op.Mul(each, _whole([1 << i for i in range(16)])), _whole([-1]), keepdims=0)
    parts = op.Mul(sums, _whole([1, 1 << 16, 1 << 32, 1 << 48]))
    result = op.Gather(parts, _whole_number(0), axis=-1)
    for quarter in (1, 2, 3):
        result = op.BitwiseOr(result, op.Gather(parts, _whole_number(quarter), axis=-1))
    result.meta[_SIGNS] = _as_signs(op, bits)
    return result


def _pack(x: Any, threshold: Any, flip: Any, groups: int) -> Any:
    op = _op()
    channels = x.shape[1]
    wide = x if x.dtype is not None and x.dtype.name == "DOUBLE" else op.Cast(x, to=_FLOAT)
    bound = _constant(0.0, torch.float32) if threshold is None else _per_channel(op, threshold)
    bits = op.GreaterOrEqual(wide, op.CastLike(bound, wide))
    if flip is not None:
        bits = op.Xor(bits, _per_channel(op, flip))
    return _keep(op, bits, groups, channels)


def _unpacked(op: Any, words: Any) -> Any:
    """(..., words) -> bool (..., words, 64)."""
    found = op.BitwiseAnd(op.Unsqueeze(words, _whole([-1])), _powers())
    return op.Not(op.Equal(found, _whole([0])))


def _signs_of(op: Any, words: Any, channels: int, groups: int) -> Any:
    if _SIGNS in words.meta:
        return words.meta[_SIGNS]
    per_group = channels // groups
    images_rows_columns = op.Slice(op.Shape(words), _whole([0]), _whole([3]))
    shape = op.Concat(images_rows_columns, _whole([groups, words_for(per_group) * WORD]), axis=0)
    split = op.Slice(op.Reshape(_unpacked(op, words), shape), _whole([0]), _whole([per_group]), _whole([-1]))
    pixels = op.Reshape(split, op.Concat(images_rows_columns, _whole([channels]), axis=0))
    return op.Transpose(_as_signs(op, pixels), perm=[0, 3, 1, 2])


def _dots(
    words: Any,
    weight: Any,
    in_channels: int,
    out_channels: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Any:
    op = _op()
    blocks, kh, kw, count = (int(weight.shape[i]) for i in range(1, 5))
    by_output = op.Transpose(weight, perm=[0, 1, 5, 2, 3, 4])
    bits = op.Reshape(_unpacked(op, by_output), _whole([groups, blocks * BLOCK, kh, kw, count * WORD]))
    kept = op.Slice(bits, _whole([0, 0]), _whole([out_channels // groups, in_channels // groups]), _whole([1, 4]))
    ordered = op.Transpose(_as_signs(op, kept), perm=[0, 1, 4, 2, 3])
    signs = op.Reshape(ordered, _whole([out_channels, in_channels // groups, kh, kw]))
    left, right, top, bottom = padding
    return op.Conv(
        _signs_of(op, words, in_channels, groups),
        signs,
        strides=list(stride),
        pads=[top, left, bottom, right],
        dilations=list(dilation),
        group=groups,
        kernel_shape=[kh, kw],
    )


def _conv2d(words: Any, weight: Any, scale: Any, bias: Any, map: Any, panels: Any, *call: Any) -> Any:
    op = _op()
    *geometry, relu = call
    double = scale.dtype is not None and scale.dtype.name == "DOUBLE"
    y = _dots(words, weight, *geometry)
    y = op.Cast(y, to=_DOUBLE) if double else y
    y = op.Mul(y, op.CastLike(_per_channel(op, scale), y))
    if map is not None:
        y = op.Mul(y, op.CastLike(op.Unsqueeze(map, _whole([1])), y))
    if bias is not None:
        y = op.Add(y, op.CastLike(_per_channel(op, bias), y))
    return op.CastLike(op.Relu(y) if relu else y, scale)


def _conv2d_sign(words: Any, weight: Any, threshold: Any, flip: Any, panels: Any, *geometry: Any) -> Any:
    op = _op()
    dots = op.Cast(_dots(words, weight, *geometry), to=_INT64)
    bits = op.GreaterOrEqual(dots, op.Cast(_per_channel(op, threshold), to=_INT64))
    return _keep(op, op.Xor(bits, _per_channel(op, flip)), 1, geometry[1])
