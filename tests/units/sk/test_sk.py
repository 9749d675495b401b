"""The selective kernel unit against a naive loop, the golden tensors, timm's module, and its fused form.

Two of the golden cases are other units than the paper's, and are reached by constraining ours: timm's default
(`split_input=True`) gives each branch its own part of the input channels, so its kernels are ours with zeros for the
other channels; the authors' later PyTorch variant has two undilated 3x3 branches, one of them grouped, which in a
dense unit with true kernels are one 3x3 kernel, and one within a 5x5 of zeros.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from timm.layers import SelectiveKernel
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, pad

from convswap.errors import FusionError
from convswap.units import FusedSelectiveKernel, SelectiveKernelConv2d

DOUBLE = {"dtype": torch.float64}
CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"in_channels": 4, "out_channels": 4, "kernel_size": 3, "padding": 1, "bias": False}, {}),
    ({"in_channels": 4, "out_channels": 6, "kernel_size": 3, "stride": 2, "groups": 2}, {"branches": 3}),
    ({"in_channels": 3, "out_channels": 2, "kernel_size": (1, 3), "padding": (0, 2), "dilation": 2}, {"relu": False}),
    ({"in_channels": 4, "out_channels": 4, "kernel_size": 3, "padding": "same"}, {"branch_groups": 2}),
    ({"in_channels": 2, "out_channels": 4, "kernel_size": 3, "padding": 1}, {"kernels": "true", "branches": 3}),
    ({"in_channels": 2, "out_channels": 3, "kernel_size": 1}, {"kernels": "true"}),
    ({"in_channels": 2, "out_channels": 3, "kernel_size": 5, "padding": "valid"}, {"branches": 1}),
    ({"in_channels": 2, "out_channels": 3, "kernel_size": 3, "padding": 2, "padding_mode": "reflect"}, {}),
    ({"in_channels": 2, "out_channels": 3, "kernel_size": 3, "padding": 1, "padding_mode": "circular"}, {}),
]
each_case = pytest.mark.parametrize(("geometry", "options"), CASES, ids=str)


def randomised(unit: SelectiveKernelConv2d) -> SelectiveKernelConv2d:
    """Every parameter and statistic away from its start, so that the softmax is far from even."""
    with torch.no_grad():
        for parameter in unit.parameters():
            parameter.normal_()
        for module in unit.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return unit.eval()


def example(geometry: dict[str, Any]) -> Tensor:
    return torch.randn(2, geometry["in_channels"], 7, 6, **DOUBLE)


def normalised(values: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """One channel per row of `norm`, over (N, C, ...), in evaluation."""
    return batch_norm(values, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)


def padded(unit: SelectiveKernelConv2d, x: Tensor, reach: tuple[int, int]) -> Tensor:
    """The host's padding in its mode, then zeros to where the branch's `reach` beyond the host's kernel ends."""
    if unit.padding == "same":
        rows, columns = (d * (k - 1) // 2 for d, k in zip(unit.dilation, unit.kernel_size, strict=True))
    else:
        rows, columns = (0, 0) if unit.padding == "valid" else unit.padding
    mode = "constant" if unit.padding_mode == "zeros" else unit.padding_mode
    x = pad(x, (columns, columns, rows, rows), mode=mode)
    return pad(x, (reach[1], reach[1], reach[0], reach[0]))


def branch_by_loop(unit: SelectiveKernelConv2d, x: Tensor, i: int, options: dict[str, Any]) -> Tensor:
    """Branch i = 1, 2, ..: kernel and dilation by the definition, one output pixel at a time."""
    weight = unit.branches[i - 1].conv.weight
    if options.get("kernels") == "true":
        sides = tuple(k + 2 * (i - 1) for k in unit.kernel_size)
        (dh, dw) = unit.dilation
    else:
        sides = unit.kernel_size
        (dh, dw) = (d * i for d in unit.dilation)
    assert weight.shape[2:] == sides
    reach = tuple(
        (d * (k - 1) - host_d * (host_k - 1)) // 2
        for d, k, host_d, host_k in zip((dh, dw), sides, unit.dilation, unit.kernel_size, strict=True)
    )
    x = padded(unit, x, reach)
    groups = options.get("branch_groups", unit.groups)
    per_in, per_out = unit.in_channels // groups, unit.out_channels // groups
    (kh, kw), (sh, sw) = sides, unit.stride
    height, width = (x.shape[2] - dh * (kh - 1) - 1) // sh + 1, (x.shape[3] - dw * (kw - 1) - 1) // sw + 1
    z = torch.zeros(len(x), unit.out_channels, height, width, **DOUBLE)
    for o, r, c in itertools.product(range(unit.out_channels), range(height), range(width)):
        first = o // per_out * per_in
        for u, v in itertools.product(range(kh), range(kw)):
            seen = x[:, first : first + per_in, r * sh + u * dh, c * sw + v * dw]
            z[:, o, r, c] += seen @ weight[o, :, u, v]
    y = normalised(z, unit.branches[i - 1].norm)
    return y.clamp(min=0) if options.get("relu", True) else y


def naive(unit: SelectiveKernelConv2d, x: Tensor, options: dict[str, Any]) -> Tensor:
    count = options.get("branches", 2)
    maps = [branch_by_loop(unit, x, i, options) for i in range(1, count + 1)]
    total = torch.zeros_like(maps[0])
    for u in maps:
        total += u
    y = torch.zeros_like(total)
    for n in range(len(x)):
        if count == 1:
            y[n] = maps[0][n]
        else:
            pooled = torch.stack([total[n, c].sum() / total[n, c].numel() for c in range(unit.out_channels)])
            reduced = unit.attention.reduce.weight[:, :, 0, 0] @ pooled
            z = normalised(reduced[None], unit.attention.norm)[0].clamp(min=0)
            logits = unit.attention.select.weight[:, :, 0, 0] @ z
            for c in range(unit.out_channels):
                powers = [math.exp(logits[m * unit.out_channels + c]) for m in range(count)]
                for m in range(count):
                    y[n, c] += powers[m] / sum(powers) * maps[m][n, c]
        if unit.bias is not None:
            y[n] += unit.bias[:, None, None]
    return y


@each_case
@torch.no_grad()
def test_forward_and_fuse_are_the_formula(geometry, options):
    torch.manual_seed(0)
    unit = randomised(SelectiveKernelConv2d(**geometry, **options, min_channels=5, **DOUBLE))
    x = example(geometry)
    expected = naive(unit, x, options)
    assert expected.shape == nn.Conv2d(**geometry, **DOUBLE)(x).shape
    fused = unit.fuse()
    assert isinstance(fused, FusedSelectiveKernel)
    assert not [module for module in fused.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in (unit, fused):
        torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-11)
        torch.testing.assert_close(module(x[0]), expected[0], rtol=0, atol=1e-11)
        assert module(x[:0]).shape == expected[:0].shape


@each_case
def test_gradients_are_those_of_a_composition_of_torch_functions(geometry, options):
    """In training, where BatchNorm uses the batch: the same composition written with torch.nn.functional."""
    torch.manual_seed(1)
    unit = randomised(SelectiveKernelConv2d(**geometry, **options, min_channels=5, **DOUBLE)).train()
    x = torch.cat([example(geometry), example(geometry)])
    maps = []
    for branch in unit.branches:
        conv, norm = branch.conv, branch.norm
        reach = [
            (d * (k - 1) - host_d * (host_k - 1)) // 2
            for d, k, host_d, host_k in zip(
                conv.dilation, conv.kernel_size, unit.dilation, unit.kernel_size, strict=True
            )
        ]
        around = padded(unit, x, tuple(reach))
        z = conv2d(around, conv.weight, None, unit.stride, 0, conv.dilation, unit.branch_groups)
        y = batch_norm(z, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)
        maps.append(y.relu() if options.get("relu", True) else y)
    stacked = torch.stack(maps, 1)
    if unit.attention is None:
        y = stacked[:, 0]
    else:
        reduce, norm, select = unit.attention.reduce, unit.attention.norm, unit.attention.select
        z = stacked.sum(1).mean((2, 3)) @ reduce.weight[:, :, 0, 0].T
        z = batch_norm(z, None, None, norm.weight, norm.bias, True, 0.0, norm.eps).relu()
        a = (z @ select.weight[:, :, 0, 0].T).view(len(x), len(maps), -1, 1, 1).softmax(1)
        y = (a * stacked).sum(1)
    y = y if unit.bias is None else y + unit.bias[:, None, None]
    torch.testing.assert_close(unit(x), y, rtol=0, atol=1e-10)
    factor, parameters = torch.randn_like(y), list(unit.parameters())
    expected = torch.autograd.grad((y * factor).sum(), parameters)
    found = torch.autograd.grad((unit(x) * factor).sum(), parameters)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The reference's names in ours."""
    pairs = (("paths.", "branches."), (".bn.", ".norm."), ("fc_reduce", "reduce"), ("fc_select", "select"))
    renamed = {}
    for key, value in state.items():
        for old, new in (*pairs, ("attn.", "attention.")):
            key = key.replace(old, new)
        renamed[key] = value
    return renamed


GOLDEN = {
    "case_sk_128_g32_M2_d32": {"geometry": (128, 128, 3, 1, 1, 1, 32, False), "options": {}},
    "case_sk_64_keep5x5": {
        "geometry": (64, 64, 3, 1, 1, 1, 8, False),
        "options": {"kernels": "true", "reduction": 4, "min_channels": 1},
    },
}


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_golden(golden, name, layout):
    reference = golden("sk")[name]
    unit = SelectiveKernelConv2d(*GOLDEN[name]["geometry"], **GOLDEN[name]["options"], **DOUBLE).eval()
    unit.load_state_dict(renamed(reference["state_dict"]))
    x = reference["input"].contiguous(memory_format=layout).requires_grad_()
    for module in (unit, unit.fuse()):
        torch.testing.assert_close(module(x), reference["output"], rtol=0, atol=1e-9)
    output = unit.train()(x)
    torch.testing.assert_close(output, reference["output_train"], rtol=0, atol=1e-9)
    (output * reference["loss_weight"]).sum().backward()
    torch.testing.assert_close(x.grad, reference["grad_input_train"], rtol=1e-9, atol=1e-9, check_stride=False)
    expected = renamed(reference["grad_params_train"])
    assert expected.keys() == dict(unit.named_parameters()).keys()
    for key, parameter in unit.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[key], rtol=1e-9, atol=1e-9, check_stride=False, msg=key)


def test_timms_split_input_is_ours_with_half_of_each_kernel_zero(shared):
    reference = torch.load(shared / "golden" / "sk" / "case_sk_64_split_M2_timm.pt", weights_only=True)
    state = renamed(reference["state_dict"])
    for index, channels in enumerate((slice(0, 32), slice(32, 64))):
        half = state[f"branches.{index}.conv.weight"]
        whole = half.new_zeros(64, 64, 3, 3)
        whole[:, channels] = half
        state[f"branches.{index}.conv.weight"] = whole
    unit = SelectiveKernelConv2d(64, 64, 3, padding=1, bias=False, reduction=4, min_channels=1, **DOUBLE).eval()
    unit.load_state_dict(state)
    torch.testing.assert_close(unit(reference["input"]), reference["output"], rtol=0, atol=1e-9)
    torch.testing.assert_close(unit.train()(reference["input"]), reference["output_train"], rtol=0, atol=1e-9)


def test_the_authors_later_variant_is_ours_with_a_grouped_kernel_within_zeros(shared):
    reference = torch.load(shared / "golden" / "sk" / "case_pytorchinsight_bottleneck_64.pt", weights_only=True)
    given, state = reference["state_dict"], {}
    for ours, theirs in (
        ("branches.0.norm", "bn2"), ("branches.1.norm", "bn2g"), ("attention.norm", "bn_fc1"),
        ("attention.reduce", "conv_fc1"), ("attention.select", "conv_fc2"), ("branches.0.conv", "conv2"),
    ):  # fmt: skip
        state |= {ours + key.removeprefix(theirs): v for key, v in given.items() if key.startswith(f"{theirs}.")}
    wide = torch.zeros(64, 64, 5, 5, **DOUBLE)
    for o in range(64):  # 32 groups of two channels, in the 3x3 centre
        wide[o, o // 2 * 2 : o // 2 * 2 + 2, 1:4, 1:4] = given["conv2g.weight"][o]
    state["branches.1.conv.weight"] = wide
    unit = SelectiveKernelConv2d(
        64, 64, 3, padding=1, bias=False, kernels="true", reduction=16, min_channels=1, **DOUBLE
    ).eval()
    unit.load_state_dict(state)
    x, ends = reference["input"], {}
    for name in ("1", "3"):
        ends[name] = (given[f"conv{name}.weight"], [given[f"bn{name}.{k}"] for k in ("running_mean", "running_var")])
    stats = {n: (given[f"bn{n}.weight"], given[f"bn{n}.bias"]) for n in ("1", "3")}
    inner = batch_norm(conv2d(x, ends["1"][0]), *ends["1"][1], *stats["1"]).relu()
    y = batch_norm(conv2d(unit(inner), ends["3"][0]), *ends["3"][1], *stats["3"])
    torch.testing.assert_close((y + x).relu(), reference["output"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilated", [True, False])
def test_is_timms_module_with_split_input_off(stride, dilated):
    torch.manual_seed(2)
    theirs = SelectiveKernel(
        32,
        64,
        [3, 5, 7],
        stride,
        groups=4,
        rd_ratio=1 / 16,
        rd_divisor=32,
        keep_3x3=dilated,
        split_input=False,
        **DOUBLE,
    )
    ours = SelectiveKernelConv2d(
        32, 64, 3, stride, 1, groups=4, bias=False, branches=3, kernels="dilated" if dilated else "true", **DOUBLE
    )
    randomised(ours)
    tensors = [value for name, value in ours.state_dict().items() if not name.endswith("_extra_state")]
    theirs.load_state_dict(dict(zip(theirs.state_dict(), tensors, strict=True)))
    x = torch.randn(3, 32, 9, 8, **DOUBLE)
    torch.testing.assert_close(ours(x), theirs.eval()(x), rtol=0, atol=1e-11)
    torch.testing.assert_close(ours.train()(x), theirs.train()(x), rtol=0, atol=1e-11)


def test_parameters_are_the_notes_formula():
    for channels, groups, branches, hidden in ((128, 32, 2, 32), (1024, 32, 2, 64), (512, 1, 3, 32)):
        unit = SelectiveKernelConv2d(
            channels, channels, 3, padding=1, groups=groups, bias=False, branches=branches, device="meta"
        )
        expected = branches * (9 * channels**2 // groups + 2 * channels) + channels * hidden * (1 + branches)
        assert sum(p.numel() for p in unit.parameters()) == expected + 2 * hidden


def test_one_branch_is_conv_norm_relu_without_attention():
    unit = SelectiveKernelConv2d(4, 6, 3, padding=1, branches=1)
    assert unit.attention is None
    x = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(unit(x), unit.branches[0](x) + unit.bias[:, None, None])


def test_a_training_batch_of_one_is_refused_by_name():
    unit = SelectiveKernelConv2d(4, 4, 3, padding=1)
    image = torch.randn(1, 4, 5, 5)
    with pytest.raises(ValueError, match=r"batch size of 1 .* at least 2 images"):
        unit(image)
    unit.attention.norm.eval()  # frozen statistics train with any batch
    unit(image).sum().backward()
    assert unit.eval()(image).shape == image.shape


def test_the_start_is_near_even_attention_and_branch_one_has_the_hosts_draw():
    torch.manual_seed(3)
    conv = nn.Conv2d(8, 8, 3, padding=1)
    unit = SelectiveKernelConv2d.fresh_like(conv)
    assert torch.equal(unit.weight, conv.weight)
    assert unit.weight.data_ptr() == unit.branches[0].conv.weight.data_ptr()
    assert torch.equal(unit.bias, conv.bias)
    maps = [branch(torch.randn(4, 8, 6, 6)) for branch in unit.branches]
    weights = unit.attention(maps)
    assert weights.shape == (4, 2, 8, 1, 1)
    torch.testing.assert_close(weights, torch.full_like(weights, 0.5), rtol=0, atol=0.1)


@pytest.mark.parametrize("options", [{}, {"branches": 3}, {"kernels": "true"}, {"relu": False}], ids=str)
def test_warm_start_correlates(options):
    torch.manual_seed(4)
    conv = nn.Conv2d(8, 16, 3, padding=1, **DOUBLE)
    unit = SelectiveKernelConv2d.from_conv(conv.eval(), **options)
    x = torch.randn(4, 8, 12, 12, **DOUBLE)
    correlation = torch.corrcoef(torch.stack([unit(x).flatten(), conv(x).flatten()]))[0, 1].item()
    assert correlation > (0.99 if options.get("relu") is False else 0.8)


def test_exact_start_with_true_kernels_and_no_rectifier():
    conv = nn.Conv2d(8, 16, 3, 2, 1, groups=2, padding_mode="reflect", **DOUBLE).eval()
    unit = SelectiveKernelConv2d.from_conv(conv, kernels="true", relu=False, branches=3)
    x = torch.randn(2, 8, 9, 7, **DOUBLE)
    torch.testing.assert_close(unit(x), conv(x), rtol=0, atol=1e-12)
    assert unit.warm_start_for(conv, kernels="true", relu=False) == "exact"
    assert unit.warm_start_for(conv, kernels="true") == unit.warm_start_for(conv) == "approximate"
    assert unit.warm_start_for(conv, branch_groups=4) == "none"


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("options", "error"), [({"kernels": "true"}, 1e-10), ({"branches": 1}, 1e-10), ({}, 0.15)])
@torch.no_grad()
def test_takes_over_the_batch_norm_behind_the_convolution(bias, options, error):
    torch.manual_seed(5)
    conv, norm = nn.Conv2d(8, 16, 3, padding=1, bias=bias, **DOUBLE).eval(), nn.BatchNorm2d(16, eps=1e-3, **DOUBLE)
    for value in (norm.weight, norm.bias, norm.running_mean):
        value.normal_()
    norm.running_var.uniform_(0.1, 3)
    unit = SelectiveKernelConv2d.from_conv(conv, **options)
    unit.start_from_batch_norm(norm.eval())
    x = torch.randn(4, 8, 12, 12, **DOUBLE)
    expected = norm(conv(x)).relu()
    assert (unit(x) - expected).norm() <= error * expected.norm()


def test_groups_of_its_own():
    conv = nn.Conv2d(8, 16, 3, padding=1)
    unit = SelectiveKernelConv2d.from_conv(conv, branch_groups=4)
    assert unit.groups == 1  # the geometry stays the host's
    assert all(branch.conv.groups == 4 for branch in unit.branches)
    assert unit.weight.shape == (16, 2, 3, 3)
    assert torch.equal(unit.bias, conv.bias)
    assert "branch_groups=4" in repr(unit)
    assert unit(torch.randn(2, 8, 5, 5)).shape == (2, 16, 5, 5)
    assert "branch_groups=3 does not divide" in SelectiveKernelConv2d.supports(conv, branch_groups=3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"branches": 0}, "branches=0 .* at least 1"),
        ({"branches": 2.0}, "branches=2.0"),
        ({"branches": True}, "branches=True"),
        ({"kernels": "dense"}, "kernels='dense' .*'dilated', 'true'"),
        ({"branch_groups": 0}, "branch_groups=0 .* None"),
        ({"branch_groups": 5}, "branch_groups=5 does not divide the 4 input and 8 output"),
        ({"reduction": 0}, "reduction=0 .* at least 1"),
        ({"min_channels": -1}, "min_channels=-1 .* at least 1"),
        ({"relu": "leaky"}, "relu='leaky'"),
        ({"kernel_size": 4}, "4x4 kernel .* odd"),
        ({"kernel_size": (3, 2)}, "3x2 kernel .* odd"),
        ({"kernel_size": 1}, "1x1 kernel .* kernels='true'"),
    ],
)
def test_wrong_options_say_what_is_allowed(options, words):
    arguments = {"in_channels": 4, "out_channels": 8, "kernel_size": 3, "padding": 1} | options
    with pytest.raises(ValueError, match=words):
        SelectiveKernelConv2d(**arguments)


def test_a_batch_norm_without_statistics_is_not_fused():
    unit = SelectiveKernelConv2d(4, 4, 3)
    unit.branches[1].norm = nn.BatchNorm2d(4, track_running_stats=False)
    with pytest.raises(FusionError, match="no running statistics"):
        unit.eval().fuse()
