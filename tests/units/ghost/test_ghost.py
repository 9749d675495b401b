"""The Ghost unit against a naive loop, the official code's tensors and timm's module."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from timm.models.ghostnet import GhostBottleneck, GhostModule
from torch import nn
from torch.nn import functional as F

from convswap.errors import FusionError
from convswap.units import FusedGhost, GhostConv2d

CASES = [  # in, out, kernel, stride, ratio, cheap_kernel, relu
    (3, 8, 3, 1, 2, 3, True),
    (3, 7, 3, 2, 2, 3, False),
    (4, 13, 1, 1, 3, 5, True),
    (2, 10, 3, 2, 4, 3, False),
    (2, 9, 5, 3, 5, 1, True),
    (3, 5, 3, 1, 1, 3, True),
    (3, 1, 3, 1, 2, 3, False),
]


@torch.no_grad()
def randomised(module):
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
            part.weight.normal_()
            part.bias.normal_()
    return module


def build(inp, out, k, stride, ratio, d, relu, **options):
    unit = GhostConv2d(
        inp, out, k, stride, k // 2, ratio=ratio, cheap_kernel=d, relu=relu, dtype=torch.float64, **options
    )
    return randomised(unit).eval()


def normalised(y, norm, relu):
    """BatchNorm by its running statistics of one map, written out."""
    mean, variance, scale, shift = norm
    y = (y - mean) / math.sqrt(variance + 1e-5) * scale + shift
    return max(y, 0.0) if relu else y


def norm_of(bn, channel):
    return tuple(float(t[channel]) for t in (bn.running_mean, bn.running_var, bn.weight, bn.bias))


def correlate(x, weight, i, j, stride, pad):
    """Sum over one window of (C, H, W), zeros outside, in plain Python."""
    channels, height, width = x.shape
    total = 0.0
    for c, u, v in itertools.product(range(channels), range(weight.shape[1]), range(weight.shape[2])):
        row, column = i * stride + u - pad, j * stride + v - pad
        if 0 <= row < height and 0 <= column < width:
            total += float(x[c, row, column]) * float(weight[c, u, v])
    return total


def naive(unit, x, inp, out, k, stride, ratio, d, relu):
    """The paper's module for one image, pixel by pixel: every intrinsic map, every ghost, then the cut."""
    m = math.ceil(out / ratio)
    height, width = (math.ceil(side / stride) for side in x.shape[1:])
    conv, bn = unit.primary_conv[:2]
    y = torch.zeros(m, height, width, dtype=torch.float64)
    for c, i, j in itertools.product(range(m), range(height), range(width)):
        y[c, i, j] = normalised(correlate(x, conv.weight[c], i, j, stride, k // 2), norm_of(bn, c), relu)
    maps = list(y)
    for ghost in range(out - m):
        conv, bn = unit.cheap_operation[:2]
        g = torch.zeros_like(y[0])
        source = y[ghost // (ratio - 1)][None]
        for i, j in itertools.product(range(height), range(width)):
            g[i, j] = normalised(correlate(source, conv.weight[ghost], i, j, 1, d // 2), norm_of(bn, ghost), relu)
        maps.append(g)
    return torch.stack(maps[:out])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_naive_loop(case):
    torch.manual_seed(0)
    unit = build(*case)
    x = torch.randn(1, case[0], 5, 4, dtype=torch.float64)
    with torch.no_grad():
        expected = naive(unit, x[0], *case)
        for module in (unit, unit.fuse()):
            torch.testing.assert_close(module(x)[0], expected, rtol=0, atol=1e-12)
            last = module(x.contiguous(memory_format=torch.channels_last))
            torch.testing.assert_close(last[0], expected, rtol=0, atol=1e-12)


def without_surplus(state, unit):
    """The official state, less the ghosts that its forward cuts and ours does not make."""
    wanted = unit.state_dict()
    cut = {key: value[: len(wanted[key])] if value.dim() else value for key, value in state.items()}
    assert all(torch.equal(cut[key], state[key]) for key in state if not key.startswith("cheap_operation"))
    return cut


@pytest.mark.parametrize("name", ["case_module_s2_d3_odd_linear", "case_module_s3_d5_k3_stride2"])
def test_golden(golden, name):
    reference = golden("ghost")[name]
    config = reference["config"]
    k = config["kernel_size"]
    unit = GhostConv2d(
        config["inp"], config["oup"], k, config["stride"], k // 2, ratio=config["ratio"],
        cheap_kernel=config["dw_size"], relu=config["relu"], dtype=torch.float64,
    )  # fmt: skip
    unit.load_state_dict(without_surplus(reference["state_dict"], unit), strict=True)
    for module in (unit.eval(), unit.fuse()):
        torch.testing.assert_close(module(reference["input"]), reference["output"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(("ratio", "d", "out"), [(2, 3, 12), (3, 5, 12), (4, 1, 12), (2, 3, 11), (4, 3, 10)])
def test_timms_module_is_ours(ratio, d, out, relu):
    """Train mode and gradients too: the surplus that we leave out changes nothing."""
    torch.manual_seed(0)
    act = nn.ReLU if relu else nn.Identity
    theirs = GhostModule(5, out, 3, ratio, d, 2, act).double()
    ours = GhostConv2d(5, out, 3, 2, 1, ratio=ratio, cheap_kernel=d, relu=relu, dtype=torch.float64)
    if out % ratio == 0:
        ours.load_state_dict(theirs.state_dict(), strict=True)
    else:
        ours.load_state_dict(without_surplus(theirs.state_dict(), ours), strict=True)
    x = torch.randn(3, 5, 7, 6, dtype=torch.float64)
    outputs = [module(x) for module in (theirs, ours)]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-12)
    factor = torch.randn_like(outputs[0])
    for output in outputs:
        (output * factor).sum().backward()
    for name, parameter in ours.named_parameters():
        expected = theirs.get_parameter(name).grad[: len(parameter)]
        torch.testing.assert_close(parameter.grad, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=0, atol=1e-12)


def ghosted(module):
    """timm's block with every Ghost module replaced by our unit."""
    module = copy.deepcopy(module)
    for path, child in list(module.named_modules()):
        if isinstance(child, GhostModule):
            conv, relu = child.primary_conv[0], isinstance(child.primary_conv[2], nn.ReLU)
            unit = GhostConv2d(conv.in_channels, child.out_chs, 1, relu=relu, dtype=conv.weight.dtype)
            unit.load_state_dict(without_surplus(child.state_dict(), unit), strict=True)
            parent, _, name = path.rpartition(".")
            setattr(module.get_submodule(parent), name, unit)
    assert not any(isinstance(child, GhostModule) for child in module.modules())
    return module.train(module.training)


@pytest.mark.parametrize("name", ["case_bottleneck_s1_id", "case_bottleneck_s1_proj_se"])
def test_golden_bottleneck_in_timms_with_and_without_our_unit(golden, name):
    reference = golden("ghost")[name]
    c = reference["config"]
    block = GhostBottleneck(
        c["in_chs"], c["mid_chs"], c["out_chs"], c["dw_kernel_size"], c["stride"], se_ratio=c["se_ratio"]
    )
    block.double().eval().load_state_dict(reference["state_dict"], strict=True)
    for module in (block, ghosted(block).eval()):
        torch.testing.assert_close(module(reference["input"]), reference["output"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("relu", [True, False])
def test_merging_identity_and_ghosts_is_the_same_function(relu):
    """Note section 5: one depthwise convolution of multiplier s, its identity kernels among the ghosts', permuted."""
    torch.manual_seed(0)
    s, m = 3, 4
    unit = build(3, s * m, 3, 1, s, 3, relu)
    fused = unit.fuse()
    primary, cheap = (p[0] if relu else p for p in (fused.primary_conv, fused.cheap_operation))
    identity = torch.zeros(m, 1, 1, 3, 3, dtype=torch.float64)
    identity[..., 1, 1] = 1
    weight = torch.cat([identity, cheap.weight.reshape(m, s - 1, 1, 3, 3)], 1).reshape(m * s, 1, 3, 3)
    bias = torch.cat([torch.zeros(m, 1), cheap.bias.reshape(m, s - 1)], 1).flatten()
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    y = primary(x).relu() if relu else primary(x)
    y = F.conv2d(y, weight, bias, padding=1, groups=m)
    y = y.relu() if relu else y
    order = [i * s for i in range(m)] + [i * s + 1 + r for i in range(m) for r in range(s - 1)]
    torch.testing.assert_close(y[:, order], unit(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_parameters_follow_the_formula(case):
    inp, out, k, _, s, d, _ = case
    unit = build(*case)
    m = math.ceil(out / s)
    p = 0 if s == 1 else math.ceil((out - m) / (s - 1))
    made = p * (s - 1)
    assert sum(w.numel() for w in unit.parameters()) == m * inp * k * k + made * d * d + 2 * (m + made)
    assert out - m <= made < max(out - m + s - 1, 1)
    assert s > 2 or made == out - m
    theirs = GhostModule(inp, out, k, max(s, 2), d)  # timm's has no ratio 1
    if s > 1:
        surplus = (m - p) * (s - 1) * (d * d + 2)
        assert sum(w.numel() for w in theirs.parameters()) == sum(w.numel() for w in unit.parameters()) + surplus


def test_fused_form():
    assert type(build(3, 5, 3, 1, 1, 3, False).fuse()) is nn.Conv2d
    for relu in (True, False):
        fused = build(3, 6, 3, 1, 2, 3, relu).fuse()
        assert type(fused) is FusedGhost
        assert not any(isinstance(part, nn.BatchNorm2d) for part in fused.modules())
        assert fused.weight.shape == (3, 3, 3, 3)


def test_a_norm_without_statistics_cannot_be_folded():
    unit = GhostConv2d(2, 4, 3)
    unit.primary_conv[1] = nn.BatchNorm2d(2, track_running_stats=False)
    with pytest.raises(FusionError, match="running statistics"):
        unit.eval().fuse()


def test_fresh_start_keeps_the_hosts_leading_filters():
    conv = nn.Conv2d(4, 7, 3, bias=True)
    unit = GhostConv2d.fresh_like(conv, ratio=3)
    assert unit.bias is None
    assert torch.equal(unit.weight, conv.weight[:3])


def test_groups_and_depthwise():
    unit = GhostConv2d(4, 8, 3, padding=1, groups=2, dtype=torch.float64).eval()
    x = torch.randn(1, 4, 5, 5, dtype=torch.float64)
    y = F.conv2d(x, unit.weight, padding=1, groups=2) / math.sqrt(1 + 1e-5)
    torch.testing.assert_close(unit(x)[:, :4], y, rtol=0, atol=1e-12)
    assert "depthwise" in GhostConv2d.supports(nn.Conv2d(4, 8, 3, groups=4))
    assert "groups=2 do not divide the 3" in GhostConv2d.supports(nn.Conv2d(4, 6, 3, groups=2))
    assert GhostConv2d.supports(nn.Conv2d(4, 6, 3, groups=2), ratio=3) is None
    assert GhostConv2d.supports(nn.Conv2d(1, 6, 3)) is None
    with pytest.raises(ValueError, match="depthwise"):
        GhostConv2d(4, 4, 3, groups=4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ratio": 0}, "ratio=0 is not allowed; give a whole number of at least 1"),
        ({"ratio": 2.0}, "ratio=2.0"),
        ({"ratio": True}, "ratio=True"),
        ({"cheap_kernel": 4}, "cheap_kernel=4 is not allowed; give an odd"),
        ({"cheap_kernel": -1}, "cheap_kernel=-1"),
        ({"relu": "yes"}, "relu='yes'"),
    ],
)
def test_bad_options_are_named(options, words):
    for build in (lambda: GhostConv2d(2, 4, 3, **options), lambda: GhostConv2d.supports(nn.Conv2d(2, 4, 3), **options)):
        with pytest.raises(ValueError, match=words):
            build()
