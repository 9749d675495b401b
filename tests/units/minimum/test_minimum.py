"""The minimum unit and the core it shares with its block: naive loops, exact identities, fused form, refusals."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import pad
from torch.utils.flop_counter import FlopCounterMode

import convswap
from convswap.errors import FusionError
from convswap.units import FusedMinimum, MinimumConv2d, with_marks
from convswap.units.minimum.core import MapNorm, minimum

GEOMETRIES = [
    {"in_channels": 3, "out_channels": 4, "kernel_size": 3, "padding": 1},
    {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "stride": 2, "groups": 2},
    {"in_channels": 3, "out_channels": 2, "kernel_size": (2, 3), "stride": (1, 2), "padding": (1, 2), "bias": False},
    {"in_channels": 2, "out_channels": 2, "kernel_size": (4, 3), "padding": "same", "dilation": (1, 2)},
    {"in_channels": 2, "out_channels": 3, "kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
]
OPTIONS = [
    {},
    {"combine": "product"},
    {"combine": "abs_relu", "expansion": 1.5},
    {"combine": "log"},
    {"norm": "batch"},
    {"combine": "log", "norm": "batch", "expansion": 1},
]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def randomised(module: nn.Module) -> nn.Module:
    """Random parameters and BatchNorm statistics."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
    return module.eval()


def naive_norm(norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A BatchNorm from its running statistics, or each map by its own mean and variance."""
    y = torch.empty_like(x)
    for n, c in itertools.product(range(x.shape[0]), range(x.shape[1])):
        if isinstance(norm, nn.BatchNorm2d):
            mean, variance = norm.running_mean[c], norm.running_var[c]
            gain, shift = (norm.weight[c], norm.bias[c]) if norm.affine else (1.0, 0.0)
        elif x[n, c].numel() == 1:
            mean, variance, gain, shift = 0.0, 1 - norm.eps, 1.0, 0.0
        else:
            mean = x[n, c].sum() / x[n, c].numel()
            variance = ((x[n, c] - mean) ** 2).sum() / x[n, c].numel()
            gain, shift = 1.0, 0.0
        y[n, c] = (x[n, c] - mean) / (variance + norm.eps) ** 0.5 * gain + shift
    return y


def naive_pointwise(conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    y = torch.zeros(x.shape[0], conv.out_channels, *x.shape[2:], dtype=x.dtype)
    per_in, per_out = conv.in_channels // conv.groups, conv.out_channels // conv.groups
    for o, i in itertools.product(range(conv.out_channels), range(per_in)):
        y[:, o] += conv.weight[o, i, 0, 0] * x[:, o // per_out * per_in + i]
    return y if conv.bias is None else y + conv.bias[:, None, None]


def naive_depthwise(conv: nn.Conv2d, u: torch.Tensor) -> torch.Tensor:
    """One filter a map, pixel by pixel."""
    (kh, kw), (sh, sw), (dh, dw) = conv.kernel_size, conv.stride, conv.dilation
    if conv.padding == "same":
        rows, columns = dh * (kh - 1), dw * (kw - 1)
        margins = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    else:
        margins = (conv.padding[1], conv.padding[1], conv.padding[0], conv.padding[0])
    u = pad(u, margins, mode="constant" if conv.padding_mode == "zeros" else conv.padding_mode)
    height, width = ((u.shape[2 + a] - d * (k - 1) - 1) // s + 1 for a, d, k, s in ((0, dh, kh, sh), (1, dw, kw, sw)))
    y = torch.zeros(*u.shape[:2], height, width, dtype=u.dtype)
    for r, c, p, q in itertools.product(range(height), range(width), range(kh), range(kw)):
        y[:, :, r, c] += conv.weight[:, 0, p, q] * u[:, :, r * sh + p * dh, c * sw + q * dw]
    return y


def naive_core(core: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The paper's sequence with both rectifiers written out."""
    u = naive_norm(core.expand_norm, naive_pointwise(core.expand, x)).clamp(min=0)
    a = naive_norm(core.left_norm, naive_depthwise(core.left, u))
    b = naive_norm(core.right_norm, naive_depthwise(core.right, u))
    if core.combine == "log":
        logs = ((a.clamp(0, 6) + 0.5).log() + (b.clamp(0, 6) + 0.5).log()) / math.log(2)
        return naive_pointwise(core.project, 2 ** naive_norm(core.log_norm, logs))
    a, b = a.clamp(min=0), b.clamp(min=0)
    m = {
        "min": lambda: torch.where(a < b, a, b),
        "product": lambda: a * b,
        "abs_relu": lambda: (a + b).clamp(min=0) - (a - b).clamp(min=0) - (b - a).clamp(min=0),
    }[core.combine]()
    return naive_pointwise(core.project, m)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("options", OPTIONS)
def test_against_a_loop(geometry, options):
    unit = randomised(MinimumConv2d(**geometry, **options, dtype=torch.float64))
    x = torch.randn(2, unit.in_channels, 6, 7, dtype=torch.float64)
    with torch.no_grad():
        expected = naive_core(unit.core, x)
        torch.testing.assert_close(unit(x), expected, rtol=1e-10, atol=1e-10)
        fused = unit.fuse()
        torch.testing.assert_close(fused(x), expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(fused(x[1]), expected[1], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(unit(x[1]), expected[1], rtol=1e-10, atol=1e-10)
    assert isinstance(fused, FusedMinimum)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(4, 5), (1, 2), (16, 1)])
def test_map_norm_is_instance_norm(layout, size):
    x = torch.randn(3, 4, *size, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    ours, theirs = MapNorm(4)(x), nn.InstanceNorm2d(4)(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(x)
    grads = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (ours, theirs)]
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-9)


def test_map_norm_leaves_single_pixels_and_takes_no_example():
    x = torch.randn(2, 4, 1, 1)
    assert torch.equal(MapNorm(4)(x), x)
    for layout in (torch.contiguous_format, torch.channels_last):
        assert MapNorm(4)(torch.zeros(0, 4, 3, 3).to(memory_format=layout)).shape == (0, 4, 3, 3)
    unit = MinimumConv2d(3, 4, 3).eval()
    assert unit(torch.randn(2, 3, 3, 3)).shape == (2, 4, 1, 1)


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_maps_are_normalised_in_float32_under_low_precision(norm):
    """A constant offset 50 times the spread: half precision statistics would lose all of it."""
    x = (100 + 2 * torch.randn(2, 3, 8, 8)).bfloat16().to(memory_format=torch.channels_last)
    expected = nn.InstanceNorm2d(3)(x.float())
    assert (MapNorm(3)(x).float() - expected).abs().max() < 0.02


def test_minimum_is_exact_and_so_is_its_gradient():
    a = torch.randn(2, 8, 5, 5, requires_grad=True)
    b = torch.randn(2, 8, 5, 5, requires_grad=True)
    expected = torch.minimum(a, b)
    assert torch.equal(minimum(a, b), expected)
    weight = torch.randn_like(a)
    ours = torch.autograd.grad((minimum(a, b) * weight).sum(), (a, b))
    theirs = torch.autograd.grad((expected * weight).sum(), (a, b))
    assert all(torch.equal(x, y) for x, y in zip(ours, theirs, strict=True))
    with torch.no_grad():
        assert torch.equal(minimum(a, b), expected)


def test_abs_relu_is_twice_the_minimum():
    least = randomised(MinimumConv2d(3, 4, 3, padding=1, bias=False, dtype=torch.float64))
    twice = MinimumConv2d(3, 4, 3, padding=1, bias=False, combine="abs_relu", dtype=torch.float64).eval()
    twice.load_state_dict(with_marks(twice, least.state_dict()))
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(twice(x), 2 * least(x), rtol=1e-14, atol=1e-14)


def test_instance_norm_makes_the_filters_free_of_scale():
    unit = randomised(MinimumConv2d(3, 4, 3, padding=1, dtype=torch.float64))
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    expected = unit(x)
    with torch.no_grad():
        unit.core.left.weight.mul_(100)
    torch.testing.assert_close(unit(x), expected, rtol=0, atol=1e-3)  # but for eps


@pytest.mark.parametrize("options", OPTIONS)
def test_parameters_and_multiply_adds(options):
    """F in + 2F + 2kkF + F out, at the input's and the output's resolution."""
    cin, out, size = 6, 8, 10
    unit = MinimumConv2d(cin, out, 3, 2, 1, bias=False, **options).eval()
    maps = int(options.get("expansion", 2) * out)
    norms = 2 * maps * (3 if options.get("norm") == "batch" else 1)
    assert sum(p.numel() for p in unit.parameters()) == maps * cin + norms + 18 * maps + maps * out
    with FlopCounterMode(display=False) as counter:
        unit(torch.randn(1, cin, size, size))
    assert counter.get_total_flops() // 2 == maps * cin * size**2 + (18 * maps + maps * out) * (size // 2) ** 2


def test_host_batch_norm_folds_too():
    host = nn.Sequential(MinimumConv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    randomised(host)
    fused = convswap.fuse(host, torch.randn(2, 3, 9, 9))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    x = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(fused(x), host(x), rtol=1e-4, atol=1e-4)


def test_default_placement_is_where_stages_start():
    from convswap.models import create_model

    swapped = convswap.swap(create_model("cifar_resnet20", num_classes=10), "minimum")
    found = [path for path, module in swapped.named_modules() if isinstance(module, MinimumConv2d)]
    assert found == ["layer2.0.conv1", "layer3.0.conv1"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"combine": "max"}, "combine='max' is not allowed; choose one of 'min', 'product', 'abs_relu', 'log'"),
        ({"norm": "layer"}, "norm='layer' is not allowed; choose one of 'instance', 'batch'"),
        ({"expansion": 0.1}, "expansion=0.1 is not allowed; give a number of at least 0.25"),
        ({"expansion": float("nan")}, "expansion=nan is not allowed"),
        ({"expansion": True}, "expansion=True is not allowed"),
    ],
)
def test_wrong_options_say_what_is_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        MinimumConv2d(3, 4, 3, **options)


@pytest.mark.parametrize(
    ("conv", "options", "reason"),
    [
        (nn.Conv2d(4, 4, 1), {}, "kernel_size=1 is not allowed"),
        (nn.Conv2d(4, 8, 3, groups=4), {}, "groups=4 is not allowed: a depthwise convolution"),
        (nn.Conv2d(4, 4, 3, groups=2), {"expansion": 0.4}, "expansion=0.4 is not allowed; give a number of at least"),
    ],
)
def test_unsupported_places_are_refused_with_a_reason(conv, options, reason):
    assert reason in str(MinimumConv2d.supports(conv, **options))
    with pytest.raises(ValueError, match=reason):
        MinimumConv2d.from_conv(conv, **options)
    assert MinimumConv2d.supports(nn.Conv2d(1, 4, (1, 3))) is None


def test_a_fresh_unit_takes_over_the_bias():
    conv = nn.Conv2d(3, 4, 3)
    assert torch.equal(MinimumConv2d.fresh_like(conv).bias, conv.bias)
    assert MinimumConv2d.fresh_like(nn.Conv2d(3, 4, 3, bias=False)).bias is None


def test_a_norm_without_statistics_cannot_be_folded():
    unit = MinimumConv2d(3, 4, 3)
    unit.core.expand_norm = nn.BatchNorm2d(8, track_running_stats=False)
    with pytest.raises(FusionError, match="keeps no running statistics"):
        unit.fuse()
