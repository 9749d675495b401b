"""Cost formulas of elementwise operators, reductions, and operators that only move; whole layers: `layers`.

Four tables cover most operators: operations for each number written, for each number read, reductions, and operators
declared free of arithmetic.
"""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor

from .counts import Call, Counts, register_cost

_ADD, _MULTIPLY, _COMPARE = Counts(additions=1), Counts(multiplications=1), Counts(comparisons=1)
_SPECIAL, _BITWISE = Counts(special=1), Counts(bitwise=1)
_SIGMOID = Counts(additions=1, bitwise=1, special=2)  # 1 / (1 + exp(-x))

# For each number written.
_EACH: dict[Counts, str] = {
    _COMPARE: "gt ge lt le eq ne maximum minimum clamp_min clamp_max relu threshold threshold_backward "
    "leaky_relu_backward isnan isinf isfinite",
    _SPECIAL: "sqrt rsqrt reciprocal exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan atan2 sinh cosh "
    "tanh erf erfc remainder fmod floor_divide bernoulli uniform normal rand randn rand_like randn_like",
    _BITWISE: "neg abs copysign sgn sign round floor ceil trunc frac where masked_fill logical_and logical_or "
    "logical_not logical_xor bitwise_and bitwise_or bitwise_xor bitwise_not bitwise_left_shift bitwise_right_shift "
    "__rshift__ __lshift__ __and__ __or__ __xor__ __irshift__ __ilshift__ signbit",
    _SIGMOID: "sigmoid",
    _SIGMOID + _MULTIPLY: "silu glu",
    _SIGMOID + Counts(multiplications=3, additions=2): "silu_backward",  # s g (1 + x (1 - s))
    Counts(multiplications=2, additions=1): "sigmoid_backward tanh_backward",
    Counts(comparisons=1, multiplications=1): "leaky_relu _prelu_kernel",
    Counts(comparisons=2): "hardtanh hardtanh_backward",
    Counts(comparisons=2, multiplications=1, additions=1): "hardsigmoid",
    Counts(comparisons=2, multiplications=2, additions=1): "hardswish hardswish_backward",
    Counts(comparisons=2, multiplications=1): "hardsigmoid_backward",
    Counts(multiplications=3, additions=1, special=1): "gelu",
    Counts(multiplications=6, additions=2, special=2): "gelu_backward",
    Counts(comparisons=1, multiplications=1, additions=1, special=1): "elu celu elu_backward softplus",
    Counts(comparisons=1, additions=1, bitwise=1, special=2): "log_sigmoid_forward",  # min(x, 0) - log1p(exp(-|x|))
    Counts(multiplications=2, additions=2, comparisons=1, special=1): "log_sigmoid_backward",
    Counts(additions=2, special=4, multiplications=1): "mish",
    Counts(additions=2, multiplications=1): "lerp",
    Counts(special=1, comparisons=1, multiplications=2): "native_dropout",
    Counts(multiplications=4, additions=3): "upsample_bilinear2d grid_sampler_2d",
    Counts(multiplications=20, additions=15): "upsample_bicubic2d",  # four rows of four, then the four
}
# For each number of the first argument.
_EACH_READ: dict[Counts, str] = {
    _ADD: "max_pool2d_with_indices_backward col2im cumsum "
    "reflection_pad2d_backward replication_pad2d_backward reflection_pad1d_backward replication_pad1d_backward "
    "upsample_nearest2d_backward embedding_dense_backward adaptive_max_pool2d_backward",
    Counts(multiplications=4, additions=4): "upsample_bilinear2d_backward",
    Counts(multiplications=32, additions=16): "upsample_bicubic2d_backward",
    _SIGMOID + Counts(multiplications=4, additions=1): "glu_backward",  # s g and x s (1 - s) g
    Counts(comparisons=1, additions=2, special=2): "_softmax _safe_softmax",
    Counts(comparisons=1, additions=3, special=1): "_log_softmax",
    Counts(multiplications=2, additions=2): "_softmax_backward_data",
    Counts(multiplications=1, additions=2, special=1): "_log_softmax_backward_data",
    Counts(multiplications=1): "native_dropout_backward",
    Counts(multiplications=1, comparisons=1, additions=1): "_prelu_kernel_backward",
}
# n numbers become one: n - 1 of these.
_REDUCE: dict[Counts, str] = {
    _ADD: "sum nansum",
    _MULTIPLY: "prod",
    _COMPARE: "amax amin max min argmax argmin aminmax",
    _BITWISE: "any all",
}
# Nothing is computed.
_MOVES = (
    "clone copy contiguous cat stack index index_select gather scatter masked_select take embedding repeat roll flip "
    "tril triu constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d pixel_shuffle "
    "pixel_unshuffle channel_shuffle im2col slice_backward select_backward diagonal_backward unfold_backward "
    "slice_scatter select_scatter as_strided_scatter upsample_nearest2d complex polar fill zero ones zeros full "
    "full_like ones_like zeros_like new_zeros new_full new_ones arange linspace eye scalar_tensor one_hot nonzero "
    "_unsafe_index resolve_conj _conj_physical"
)
# Nothing is moved either: memory is allocated, viewed or inspected.
_NOTHING = (
    "empty empty_like empty_strided new_empty new_empty_strided _unsafe_view _reshape_alias lift_fresh promote_types "
    "_local_scalar_dense _has_compatible_shallow_copy_type resize_ set_ item is_same_size is_set_to _assert_async "
    "_version record_stream result_type unsafe_split "
    "unsafe_split_with_sizes squeeze_ unsqueeze_ transpose_ t_ as_strided_ swapaxes_ detach_"
)


def _names(text: str) -> list[str]:
    return [f"aten::{name}" for name in dict.fromkeys(text.split())]


NOTHING = frozenset(_names(_NOTHING))


def _each(weights: Counts, call: Call) -> Counts:
    return weights.times(call.written * (2 if call.outputs[0].is_complex() else 1))


def _each_read(weights: Counts, call: Call) -> Counts:
    return weights.times(call.read)


def _reduce(weights: Counts, call: Call) -> Counts:
    complex_ = 2 if call.inputs[0].is_complex() else 1
    return weights.times(max(0, call.read - call.written) * complex_)


for _table, _rule in ((_EACH, _each), (_EACH_READ, _each_read), (_REDUCE, _reduce)):
    for _weights, _text in _table.items():
        register_cost(*_names(_text))(partial(_rule, _weights))


@register_cost(*_names(_MOVES), *NOTHING, "convswap::binary_to_nchw")
def _moves(call: Call) -> Counts:
    # A copy between types converts.
    types = {tensor.dtype for tensor in (*call.inputs[:2], *call.outputs[:1])}
    converts = len(call.inputs) == 2 and call.result is call.inputs[0] and len(types) > 1
    return Counts(bitwise=call.written) if converts else Counts()


@register_cost("aten::_to_copy")
def _to_copy(call: Call) -> Counts:
    changed = call.outputs[0].dtype != call.inputs[0].dtype
    return Counts(bitwise=call.written) if changed else Counts()


@register_cost("aten::add", "aten::sub", "aten::rsub")
def _add(call: Call) -> Counts:
    scaled = call.argument(2, "alpha", 1) not in (1, 1.0)
    n = call.written * (2 if call.outputs[0].is_complex() else 1)
    return Counts(additions=n, multiplications=n if scaled else 0)


@register_cost("aten::mul")
def _mul(call: Call) -> Counts:
    return _products(call)


@register_cost("aten::div", "aten::true_divide")
def _div(call: Call) -> Counts:
    # Division by one number is a multiplication by its reciprocal.
    divisor = call[1]
    if not isinstance(divisor, Tensor) or divisor.numel() == 1:
        return _products(call) + Counts(special=int(isinstance(divisor, Tensor)))
    n = call.written
    if divisor.is_complex():  # (a + bi)(c - di) / (c² + d²)
        return Counts(multiplications=6, additions=3, special=2).times(n)
    return Counts(special=n * (2 if call.outputs[0].is_complex() else 1))


def _products(call: Call) -> Counts:
    n = call.written
    if not call.outputs[0].is_complex():
        return Counts(multiplications=n)
    both = all(
        factor.is_complex() if isinstance(factor, Tensor) else isinstance(factor, complex) for factor in call.args
    )
    return Counts(multiplications=4 * n, additions=2 * n) if both else Counts(multiplications=2 * n)


@register_cost("aten::addcmul")
def _addcmul(call: Call) -> Counts:
    scaled = call.kwargs.get("value", 1) not in (1, 1.0)
    return Counts(additions=call.written, multiplications=call.written * (2 if scaled else 1))


@register_cost("aten::addcdiv")
def _addcdiv(call: Call) -> Counts:
    return Counts(additions=call.written, special=call.written)


@register_cost("aten::pow")
def _pow(call: Call) -> Counts:
    exponent = call[1]
    whole = isinstance(exponent, int | float) and exponent in (2, 3)
    return Counts(multiplications=call.written * (int(exponent) - 1)) if whole else Counts(special=call.written)


@register_cost("aten::clamp")
def _clamp(call: Call) -> Counts:
    bounds = [call.argument(1, "min"), call.argument(2, "max")]
    return Counts(comparisons=call.written * sum(bound is not None for bound in bounds))


@register_cost("aten::mean")
def _mean(call: Call) -> Counts:
    return _reduce(_ADD, call) + Counts(multiplications=call.written)


@register_cost("aten::var", "aten::std", "aten::var_mean", "aten::std_mean")
def _variance(call: Call) -> Counts:
    n, groups = call.read, call.written  # the mean, the deviations, the sum of their squares
    return Counts(additions=3 * n, multiplications=n + groups, special=groups)


@register_cost("aten::linalg_vector_norm", "aten::norm")
def _norm(call: Call) -> Counts:
    order = call.argument(1, "ord", 2)
    if order in (1, math.inf, -math.inf):
        return _reduce(_ADD if order == 1 else _COMPARE, call) + Counts(bitwise=call.read)
    return Counts(multiplications=call.read, special=call.written) + _reduce(_ADD, call)


@register_cost("aten::index_put", "aten::index_add", "aten::scatter_add", "aten::_unsafe_index_put")
def _scatter(call: Call) -> Counts:
    values = call.inputs[-1].numel()
    adds = call.argument(3, "accumulate", True)
    return Counts(additions=values if adds is not False else 0)
