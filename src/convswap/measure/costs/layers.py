"""Cost formulas of whole layers: pooling, Fourier transforms, normalisation, products, and our own operators.

Convolutions and matrix products take their multiply-accumulates from `torch.utils.flop_counter` where it is right.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from .counts import Call, Counts, register_cost


@register_cost("aten::max_pool2d_with_indices", "aten::max_pool1d", "aten::max_pool2d", "aten::max_pool3d_with_indices")
def _max_pool(call: Call) -> Counts:
    return Counts(comparisons=call.written * (_window(call[1], call.outputs[0].dim() - 2) - 1))


@register_cost("aten::avg_pool2d", "aten::avg_pool1d", "aten::avg_pool3d")
def _avg_pool(call: Call) -> Counts:
    window = _window(call[1], call.outputs[0].dim() - 2)
    return Counts(additions=call.written * (window - 1), multiplications=call.written)


@register_cost("aten::avg_pool2d_backward", "aten::avg_pool3d_backward")
def _avg_pool_backward(call: Call) -> Counts:
    return Counts(additions=call.read * _window(call[2], call[0].dim() - 2), multiplications=call.read)


def _window(size: Any, dims: int) -> int:
    sizes = [size] if isinstance(size, int) else list(size)
    return math.prod(sizes * dims if len(sizes) == 1 else sizes)


@register_cost("aten::_adaptive_avg_pool2d", "aten::adaptive_avg_pool1d", "aten::_adaptive_avg_pool2d_backward")
def _adaptive(call: Call) -> Counts:
    return Counts(additions=max(call.read, call.written), multiplications=min(call.read, call.written))


@register_cost("aten::adaptive_max_pool2d")
def _adaptive_max(call: Call) -> Counts:
    return Counts(comparisons=max(0, call.read - call.written))


@register_cost("aten::_fft_r2c", "aten::_fft_c2r", "aten::_fft_c2c")
def _fft(call: Call) -> Counts:
    """5 N log2 N for a complex transform of N numbers, half of it for one between real numbers and half a spectrum."""
    source, result = call.inputs[0], call.outputs[0]
    complex_ = source.is_complex() and result.is_complex()
    full = source if not source.is_complex() else result  # of a real transform, the real side has all numbers
    points = math.prod(full.shape[dim] for dim in call[1])
    batch = full.numel() // points if points else 0
    operations = 5 * points * math.log2(points) if points > 1 else 0.0
    return Counts(fft=round(batch * operations * (1 if complex_ else 0.5)))


@register_cost("aten::native_batch_norm", "aten::_native_batch_norm_legit", "aten::cudnn_batch_norm")
@register_cost("aten::_native_batch_norm_legit_no_training", "aten::_batch_norm_with_update")
def _batch_norm(call: Call) -> Counts:
    channels = call.inputs[0].shape[1]
    training = len(call.args) > 5 and call[5] is True
    if not training:  # a scale and a shift for each channel, made of its four numbers
        return Counts(additions=call.read, multiplications=call.read, special=channels)
    return _normalised(call.read, channels)


@register_cost("aten::_batch_norm_no_update")
def _batch_norm_no_update(call: Call) -> Counts:
    return Counts(additions=call.read, multiplications=call.read, special=call.inputs[0].shape[1])


@register_cost("aten::native_group_norm", "aten::native_layer_norm")
def _group_norm(call: Call) -> Counts:
    affine = Counts(additions=call.read, multiplications=call.read)
    return _normalised(call.read, call.outputs[1].numel()) + affine


def _normalised(n: int, groups: int) -> Counts:
    # The mean, the deviations, the sum of their squares; then a scale and a shift.
    return Counts(additions=4 * n, multiplications=2 * n, special=groups)


@register_cost("aten::native_batch_norm_backward", "aten::cudnn_batch_norm_backward", "aten::batch_norm_backward")
def _batch_norm_backward(call: Call) -> Counts:
    # Gradients of scale and shift: sum(g), sum(g d), with deviations d. Of the input: a g - b d - c, c by channel.
    training = len(call.args) <= 7 or call[7] is not False
    parameters = Counts(additions=3, multiplications=1)
    return (parameters + (Counts(additions=2, multiplications=2) if training else Counts(multiplications=1))).times(
        call.read
    )


@register_cost("aten::native_group_norm_backward", "aten::native_layer_norm_backward")
def _group_norm_backward(call: Call) -> Counts:
    return Counts(additions=5, multiplications=4).times(call.read)


@register_cost("aten::addmm", "aten::baddbmm", "aten::addbmm", "aten::addmv")
def _added_product(call: Call) -> Counts:
    return Counts(additions=0 if call.kwargs.get("beta", 1) == 0 else call.written)


@register_cost("aten::mm", "aten::bmm")
def _product(call: Call) -> Counts:
    return Counts()


@register_cost("aten::mv")
def _matrix_vector(call: Call) -> Counts:
    return Counts(macs_float=call.read)


@register_cost("aten::dot", "aten::vdot")
def _dot(call: Call) -> Counts:
    return Counts(macs_float=call.read)


@register_cost("aten::_int_mm")
def _integer_product(call: Call) -> Counts:
    return Counts(macs_int8=call[0].numel() * call[1].shape[1])


@register_cost("aten::convolution", "aten::_convolution", "aten::convolution_overrideable")
def _convolution(call: Call) -> Counts:
    return Counts(additions=call.written if call[2] is not None else 0)


@register_cost("aten::convolution_backward")
def _convolution_backward(call: Call) -> Counts:
    # Each gradient has as many products as the forward pass. Torch's formula counts the weight's gradient as if there
    # were no groups, so its count is too large by the number of groups.
    gradient, x, weight = call[0], call[1], call[2]
    transposed, wanted = call[7], call.argument(10, "output_mask", [True, True, True])
    places = math.prod((x if transposed else gradient).shape[2:]) * x.shape[0]
    macs = places * weight.numel() * (int(wanted[0]) + int(wanted[1]))
    return Counts(macs_float=macs, additions=call.read if wanted[2] else 0)


@register_cost("torchvision::deform_conv2d")
def _deformable(call: Call) -> Counts:
    x, weight, _, _, bias = call.args[:5]
    taps, products = _deformed(x, weight, call.written)
    sampled = Counts(multiplications=5 if call[13] else 4, additions=3).times(taps)
    return sampled + Counts(macs_float=products, additions=call.written if bias is not None else 0)


@register_cost("torchvision::_deform_conv2d_backward")
def _deformable_backward(call: Call) -> Counts:
    # The weight's gradient samples the input again. The samples' gradient is spread over four pixels of the input, and
    # for the offset multiplies the slopes of the sample along both axes (four pixels each). All of it always runs.
    gradient, x, weight = call.args[:3]
    taps, products = _deformed(x, weight, gradient.numel())
    each = Counts(multiplications=4 + 4 + 2 * 5, additions=3 + 4 + 2 * 4)
    masked = Counts(multiplications=4, additions=1) if call[14] else Counts()
    return (each + masked).times(taps) + Counts(macs_float=2 * products, additions=gradient.numel())


def _deformed(x: Tensor, weight: Tensor, written: int) -> tuple[int, int]:
    """Numbers sampled (bilinearly, from every channel at every tap), and products with the weight."""
    places = written // weight.shape[0]
    return places * x.shape[1] * math.prod(weight.shape[2:]), written * math.prod(weight.shape[1:])


@register_cost("aten::equal")
def _equal(call: Call) -> Counts:
    return Counts(comparisons=call.read)


@register_cost("aten::_cdist_forward")
def _cdist(call: Call) -> Counts:
    n = call.written * call[0].shape[-1]
    return Counts(additions=2 * n, bitwise=n) if call[2] == 1 else Counts(additions=2 * n, multiplications=n)


@register_cost("aten::sort", "aten::topk", "aten::argsort", "aten::median")
def _sort(call: Call) -> Counts:
    return Counts(comparisons=round(call.read * math.log2(max(2, call.read))))


@register_cost("aten::nll_loss_forward", "aten::nll_loss2d_forward")
def _nll(call: Call) -> Counts:
    return Counts(additions=call[1].numel(), bitwise=call[1].numel(), multiplications=1)


@register_cost("aten::nll_loss_backward", "aten::nll_loss2d_backward")
def _nll_backward(call: Call) -> Counts:
    return Counts(multiplications=call[2].numel())


@register_cost("convswap::dendritic_conv2d")
def _dendritic(call: Call) -> Counts:
    from ...ops.dendritic import elementwise_operations

    x, weight, bias, output_bias, stride, padding, dilation = call.args[:7]
    found = elementwise_operations(x.shape, weight.shape, bias.shape, stride, padding, dilation)
    after = call.written if output_bias is not None else 0
    return Counts(additions=found.additions + after, comparisons=found.comparisons)


@register_cost("convswap::dendritic_conv2d_backward")
def _dendritic_backward(call: Call) -> Counts:
    from ...ops.dendritic import elementwise_operations

    _, x, weight, bias, stride, padding, dilation, _, needs = call.args
    found = elementwise_operations(x.shape, weight.shape, bias.shape, stride, padding, dilation)
    # The kernel finds again which products were above 0 (an addition and a comparison each); biases sum what passed.
    adds = found.additions * (2 if needs[2] else 1)
    return Counts(additions=adds, comparisons=found.comparisons)


@register_cost("convswap::binary_pack")
def _pack(call: Call) -> Counts:
    flips = call.argument(2, "flip") is not None
    return Counts(comparisons=call.read, bitwise=call.read if flips else 0)


@register_cost("convswap::binary_conv2d")
def _binary(call: Call) -> Counts:
    n, (bias, map_) = call.written, (call[3], call[4])
    return Counts(
        multiplications=n * (1 if map_ is None else 2),
        additions=0 if bias is None else n,
        comparisons=n if call.argument(12, "relu") else 0,
    )


@register_cost("convswap::binary_conv2d_sign")
def _binary_sign(call: Call) -> Counts:
    rows, columns = call.outputs[0].shape[1:3]
    return Counts(comparisons=1, bitwise=1).times(call.outputs[0].shape[0] * rows * columns * call.argument(6, "out"))
