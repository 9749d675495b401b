"""Quantised convolutions: the formulas as loops, the authors' PyTorch code, draws, what training relies on."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import convswap
from convswap.train import constrain, parameter_groups
from convswap.units import (
    FusedQuantized,
    QuantizedConv2d,
    StochasticQuantizedConv2d,
    nearest_power_of_two,
    with_marks,
)


def level(x: float, bits: int, scheme: str, signed: bool = True) -> float:
    """The level of one number, from the paper, by looking at every level there is."""
    if bits == 32:
        return x
    if bits == 1 and signed:
        return 1.0 if x >= 0 else -1.0
    if scheme == "linear":
        n = 2 ** (bits - 1) if signed else 2**bits - 1
        levels = [i / n for i in (range(-n, n) if signed else range(n + 1))]
        return min(levels, key=lambda v: abs(v - x))
    count = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    if x == 0 or (x < 0 and not signed) or math.log2(abs(x)) < 0.5 - count:
        return 0.0
    return math.copysign(2.0 ** min(max(round(math.log2(abs(x))), 1 - count), 0), x)


def naive(x: torch.Tensor, unit: QuantizedConv2d) -> torch.Tensor:
    """Stride, zero padding and one group, number by number."""
    signed = unit.activation_range == "signed"
    largest = float(unit.weight.detach().abs().max())
    if unit.scheme == "log":
        largest = 2.0 ** round(math.log2(largest))
    scale = 1.0 if unit.weight_bits in (1, 32) or unit.weight_range == "unit" else largest
    n, c, h, w = x.shape
    o, (kh, kw), (sh, sw) = unit.out_channels, unit.kernel_size, unit.stride
    ph, pw = unit.padding
    out = torch.zeros(n, o, (h + 2 * ph - kh) // sh + 1, (w + 2 * pw - kw) // sw + 1, dtype=torch.float64)
    for b, f, i, j in itertools.product(*map(range, out.shape)):
        total = float(unit.bias[f].detach())
        for k, u, v in itertools.product(range(c), range(kh), range(kw)):
            row, column = i * sh + u - ph, j * sw + v - pw
            if 0 <= row < h and 0 <= column < w:
                weight = scale * level(float(unit.weight[f, k, u, v].detach()) / scale, unit.weight_bits, unit.scheme)
                total += weight * level(float(x[b, k, row, column]), unit.activation_bits, unit.scheme, signed)
        out[b, f, i, j] = total
    return out


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"activation_bits": 32},
        {"weight_bits": 2, "activation_bits": 4},
        {"weight_bits": 5, "activation_bits": 3, "weight_range": "unit", "activation_range": "unsigned"},
        {"weight_bits": 4, "activation_bits": 4, "scheme": "log"},
        {"weight_bits": 2, "activation_bits": 2, "scheme": "log", "activation_range": "unsigned"},
        {"weight_bits": 32, "activation_bits": 1, "activation_range": "unsigned"},
    ],
    ids=str,
)
def test_it_is_the_formula_number_by_number(options: dict[str, Any]) -> None:
    unit = QuantizedConv2d(2, 3, 3, stride=2, padding=1, **options, dtype=torch.float64)
    x = torch.randn(2, 2, 5, 4, dtype=torch.float64)
    x[0, 0, 0, :2] = torch.tensor([0.0, -0.0])
    torch.testing.assert_close(unit(x).detach(), naive(x, unit), rtol=0, atol=1e-12)


def check_golden(case: dict[str, Any], unit: QuantizedConv2d) -> None:
    unit.load_state_dict(with_marks(unit, case["state_dict"]))
    x = case["input"].clone().requires_grad_()
    output = unit(x)
    output.backward(case["grad_output"])
    for got, expected in [
        (output.detach(), case["output"]),
        (x.grad, case["grad_input"]),
        (unit.weight.grad, case["grad_params"]["weight"]),
        (unit.bias.grad, case["grad_params"]["bias"]),
    ]:
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)


def test_the_authors_convolution(golden) -> None:
    unit = QuantizedConv2d(6, 5, 3, stride=2, padding=1, estimator="identity", dtype=torch.float64)
    check_golden(golden("qnn")["case_conv"], unit)


def test_the_authors_first_layer_takes_real_images(golden) -> None:
    unit = QuantizedConv2d(3, 5, 3, padding=1, activation_bits=32, dtype=torch.float64)
    check_golden(golden("qnn")["case_conv_first_layer_3ch"], unit)


def test_gradients_go_straight_through() -> None:
    unit = QuantizedConv2d(4, 5, 3, padding=1, weight_bits=3, activation_bits=2, dtype=torch.float64)
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64, requires_grad=True)
    factor = torch.randn(2, 5, 6, 5, dtype=torch.float64)
    (unit(x) * factor).sum().backward()
    fused = unit.fuse()
    levels = torch.tensor([level(float(v), 2, "linear") for v in x.detach().flatten()], dtype=torch.float64).view_as(x)
    into_input = torch.nn.grad.conv2d_input(x.shape, fused.weight, factor, padding=1)
    into_weight = torch.nn.grad.conv2d_weight(levels, unit.weight.shape, factor, padding=1)
    torch.testing.assert_close(x.grad, into_input * (x.detach().abs() <= 1), rtol=0, atol=1e-12)
    torch.testing.assert_close(unit.weight.grad, into_weight, rtol=0, atol=1e-12)
    torch.testing.assert_close(unit.bias.grad, factor.sum((0, 2, 3)), rtol=0, atol=1e-12)


def test_unsigned_inputs_pass_gradients_between_0_and_1() -> None:
    unit = QuantizedConv2d(1, 1, 1, weight_bits=32, activation_bits=4, activation_range="unsigned", bias=False)
    nn.init.ones_(unit.weight)
    x = torch.tensor([-0.5, 0.0, 0.5, 1.0, 1.5]).reshape(1, 1, 1, 5).requires_grad_()
    unit(x).sum().backward()
    assert x.grad.flatten().tolist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize("bits", [2, 6])
def test_the_gradient_is_rounded_to_powers_of_two(bits: int) -> None:
    options = {"weight_bits": 32, "activation_bits": 32}
    unit = QuantizedConv2d(3, 4, 3, gradient_bits=bits, **options, dtype=torch.float64)
    plain = nn.Conv2d(3, 4, 3, dtype=torch.float64)
    plain.load_state_dict(dict(unit.named_parameters()))
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    gradient = torch.randn(2, 4, 4, 4, dtype=torch.float64) * 2.0 ** torch.randint(-9, 9, (2, 4, 4, 4))
    gradient[0, 0, 0] = 0
    scale = 2.0 ** round(math.log2(float(gradient.abs().max())))
    rounded = torch.tensor([scale * level(float(g) / scale, bits, "log") for g in gradient.flatten()])
    assert len(rounded.abs().unique()) <= 2 ** (bits - 1)
    assert torch.equal(unit(x), plain(x))
    unit(x).backward(gradient)
    plain(x).backward(rounded.double().view_as(gradient))
    torch.testing.assert_close(unit.weight.grad, plain.weight.grad, rtol=1e-12, atol=1e-12)
    unit.zero_grad()
    unit(x).backward(torch.zeros_like(gradient))
    assert float(unit.weight.grad.abs().max()) == 0


def test_32_bits_are_a_plain_convolution() -> None:
    conv = nn.Conv2d(3, 4, 3, padding=1)
    unit = QuantizedConv2d.from_conv(conv, weight_bits=32, activation_bits=32)
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(unit(x), conv(x))
    assert QuantizedConv2d.warm_start_for(conv, weight_bits=32, activation_bits=32) == "exact"
    assert type(unit.fuse()) is nn.Conv2d


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8, 12])
@pytest.mark.parametrize("scheme", ["linear", "log"])
def test_more_bits_come_nearer(bits: int, scheme: str) -> None:
    x = torch.linspace(-1, 1, 999, dtype=torch.float64)
    conv = nn.Conv2d(1, 1, 1, bias=False, dtype=torch.float64)
    nn.init.ones_(conv.weight)
    unit = QuantizedConv2d.from_conv(conv, weight_bits=32, activation_bits=bits, scheme=scheme)
    error = (unit(x.reshape(1, 1, 1, -1)).flatten() - x).detach().abs()
    if scheme == "linear":  # half a step, a whole one at the upper end
        assert float(error.max()) <= 2.0 ** (1 - bits) + 1e-12
    else:  # half a step in the exponent
        large = x.abs() >= 2.0 ** (1.5 - 2 ** (bits - 1))
        assert float((error / x.abs())[large].max()) <= 2**0.5 - 1 + 1e-9


def test_stochastic_signs_have_the_probability_of_a_hard_sigmoid() -> None:
    unit = StochasticQuantizedConv2d(1, 1, 1, bias=False).train()
    nn.init.ones_(unit.weight)
    values = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.8, 1.0, 3.0])
    x = values.repeat_interleave(20000).reshape(1, 1, 7, -1)
    share = (unit(x) > 0).float().mean(3).flatten()
    expected = ((values + 1) / 2).clamp(0, 1)
    assert torch.equal(share[[0, 1, 5, 6]], expected[[0, 1, 5, 6]])
    torch.testing.assert_close(share, expected, rtol=0, atol=0.015)
    assert torch.equal(unit.eval()(x), torch.where(x >= 0, 1.0, -1.0))


@pytest.mark.parametrize("scheme", ["linear", "log"])
def test_stochastic_rounding_goes_up_with_the_probability_of_the_rest(scheme: str) -> None:
    options: dict[str, Any] = {"weight_bits": 32, "activation_bits": 4, "scheme": scheme}
    unit = StochasticQuantizedConv2d(1, 1, 1, bias=False, **options, dtype=torch.float64).train()
    nn.init.ones_(unit.weight)
    x = torch.full((1, 1, 100, 400), 0.3, dtype=torch.float64)
    drawn = unit(x).detach()
    low, high = (0.25, 0.375) if scheme == "linear" else (0.25, 0.5)
    assert drawn.unique().tolist() == [low, high]
    up = 0.4 if scheme == "linear" else math.log2(0.3) + 2
    assert float((drawn == high).double().mean()) == pytest.approx(up, abs=0.01)


def test_stochastic_weights_are_unbiased_and_differ_from_the_inputs_draws() -> None:
    unit = StochasticQuantizedConv2d(1, 1, 64, weight_rounding="stochastic", bias=False).train()
    nn.init.constant_(unit.weight, 0.4)
    drawn = torch.stack([unit.effective_weight().detach() for _ in range(20)])
    assert drawn.unique().tolist() == [-1.0, 1.0]
    assert float(drawn.mean()) == pytest.approx(0.4, abs=0.02)
    # were weight and input drawn alike, every product would be +1
    assert abs(float(unit(torch.zeros(1, 1, 64, 64)).detach())) < 0.1 * 64 * 64 + 4 * 64
    assert torch.equal(unit.eval().effective_weight(), torch.ones(1, 1, 64, 64))


def test_training_reads_its_rules() -> None:
    unit = QuantizedConv2d(8, 16, 3, learning_rate="glorot_power_of_two")
    unit.weight.data.mul_(100)
    constrain(unit)
    assert float(unit.weight.detach().abs().max()) == 1.0
    assert unit.learning_rate_scale() == {"weight": 2.0 ** round(math.log2(math.sqrt(24 * 9 / 1.5)))}
    exact = QuantizedConv2d(8, 16, 3, learning_rate="glorot")
    assert exact.learning_rate_scale() == {"weight": pytest.approx(math.sqrt(24 * 9 / 1.5))}
    assert [group.get("lr_scale") for group in parameter_groups(exact, 0.0)] == [None, math.sqrt(24 * 9 / 1.5)]
    real = QuantizedConv2d(8, 16, 3, weight_bits=32, learning_rate="glorot")
    real.weight.data.mul_(100)
    constrain(real)
    assert float(real.weight.detach().abs().max()) > 1
    assert real.learning_rate_scale() == {}


def test_dropout_drops_signs() -> None:
    unit = QuantizedConv2d(1, 1, 1, dropout=0.5, bias=False).train()
    x = torch.randn(1, 1, 100, 100)
    assert unit(x).unique().tolist() == [-2.0, 0.0, 2.0]
    assert unit.eval()(x).unique().tolist() == [-1.0, 1.0]


def test_fused_holds_levels() -> None:
    unit = QuantizedConv2d(4, 6, 3, weight_bits=3, activation_bits=3)
    fused = unit.fuse()
    assert type(fused) is FusedQuantized
    assert len(fused.weight.unique()) <= 8
    assert type(QuantizedConv2d(4, 6, 3, activation_bits=32, weight_bits=2).fuse()) is nn.Conv2d
    first = QuantizedConv2d(4, 6, 3, activation_bits=32)
    net = nn.Sequential(first, nn.BatchNorm2d(6)).eval()
    net[1].running_mean.normal_()
    x = torch.randn(2, 4, 5, 5)
    plan = convswap.plan_fuse(net, x)
    assert plan.count("fold") == 0
    assert torch.equal(plan.apply()(x), net(x)), "the first layer's numbers must keep their last bit"
    assert first.fuse().weight.unique().tolist() == [-1.0, 1.0]


def test_a_swap_takes_out_the_relu_before_it() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
    x = torch.randn(2, 3, 9, 9)
    plan = convswap.plan_swap(net, "quantized", example_input=x, start="warm", weight_bits=8, activation_bits=8)
    assert [row.start for row in plan.replacements] == ["approximate"]
    swapped = plan.apply()
    assert [type(m).__name__ for m in swapped] == ["Conv2d", "BatchNorm2d", "Identity", "QuantizedConv2d", "ReLU"]
    binary = convswap.swap(net, "quantized", example_input=x)
    levels = binary[3].fuse()
    assert len(binary(x).unique()) > 1
    fused = convswap.fuse(binary.eval(), x)
    torch.testing.assert_close(fused(x), binary(x), rtol=1e-4, atol=1e-4)
    assert levels.weight.unique().tolist() == [-1.0, 1.0]


def test_padding_modes_and_names_of_a_plain_checkpoint() -> None:
    conv = nn.Conv2d(3, 4, 3, padding=2, padding_mode="reflect")
    unit = StochasticQuantizedConv2d(3, 4, 3, padding=2, padding_mode="reflect")
    unit.load_state_dict(with_marks(unit, conv.state_dict()), strict=True)
    x = torch.randn(1, 3, 6, 6)
    sign = torch.where(x >= 0, 1.0, -1.0)
    weight = torch.where(conv.weight >= 0, 1.0, -1.0)
    expected = F.conv2d(F.pad(sign, (2, 2, 2, 2), mode="reflect"), weight, conv.bias)
    torch.testing.assert_close(unit.eval()(x), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_bits": 0}, "weight_bits=0.*1 to 16"),
        ({"activation_bits": 20}, "activation_bits=20.*32 for full"),
        ({"activation_bits": True}, "activation_bits=True"),
        ({"gradient_bits": 1}, "gradient_bits=1.*2 to 16"),
        ({"scheme": "float"}, "scheme='float'.*'linear', 'log'"),
        ({"activation_range": "both"}, "activation_range='both'"),
        ({"weight_range": "mean"}, "weight_range='mean'"),
        ({"weight_rounding": "up"}, "weight_rounding='up'"),
        ({"activation_rounding": "up"}, "activation_rounding='up'"),
        ({"estimator": "none"}, "estimator='none'.*'clipped', 'identity'"),
        ({"learning_rate": "fast"}, "learning_rate='fast'"),
        ({"dropout": 1.0}, "dropout=1.0.*below 1"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuantizedConv2d(3, 4, 3, **options)
    with pytest.raises(ValueError, match=message):
        StochasticQuantizedConv2d(3, 4, 3, **options)


def test_powers_of_two_part_at_the_root_of_two() -> None:
    """Rounding is of the exponent: the border between 2^n and 2^(n + 1) lies at 2^(n + 1/2), not in the middle."""
    for n in range(-6, 7):
        border = 2.0 ** (n + 0.5)
        pair = torch.tensor([border * 0.999, border * 1.001, -border * 0.999, -border * 1.001], dtype=torch.float64)
        assert nearest_power_of_two(pair).tolist() == [2.0**n, 2.0 ** (n + 1), -(2.0**n), -(2.0 ** (n + 1))]
