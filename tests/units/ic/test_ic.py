"""The IC unit against naive loops, the golden tensors, and its fused form."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import pad
from torch.utils.flop_counter import FlopCounterMode

from convswap.units import FusedIC, ICConv2d

GOLDEN = Path(__file__).parents[2] / "golden" / "ic"
GEOMETRIES = [
    {"in_channels": 3, "out_channels": 4, "kernel_size": 3, "padding": 1},
    {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "stride": 2, "groups": 2},
    {"in_channels": 3, "out_channels": 6, "kernel_size": 5, "padding": 4, "dilation": 2, "groups": 3},
    {"in_channels": 3, "out_channels": 2, "kernel_size": (2, 3), "stride": (1, 2), "padding": (1, 2)},
    {"in_channels": 3, "out_channels": 2, "kernel_size": (3, 5), "padding": (1, 2)},
    {"in_channels": 3, "out_channels": 2, "kernel_size": (3, 2), "stride": (1, 2), "padding": (0, 1)},
    {"in_channels": 3, "out_channels": 2, "kernel_size": 1, "stride": 2},
    {"in_channels": 2, "out_channels": 2, "kernel_size": (4, 3), "padding": "same", "bias": False},
]


def randomised(unit: ICConv2d) -> ICConv2d:
    with torch.no_grad():
        for parameter in unit.parameters():
            parameter.normal_()
        if unit.gate_bn is not None:
            unit.gate_bn.running_mean.normal_()
            unit.gate_bn.running_var.uniform_(0.5, 2)
    return unit.eval()


def naive(unit: ICConv2d, x: torch.Tensor) -> torch.Tensor:
    """One neuron per output pixel: list its inputs, add the weighted sum and the rectified shifted sum."""
    (kh, kw), (sh, sw), (dh, dw) = unit.kernel_size, unit.stride, unit.dilation
    if unit.padding == "same":
        rows, columns = dh * (kh - 1), dw * (kw - 1)
        margins = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    else:
        margins = (unit.padding[1], unit.padding[1], unit.padding[0], unit.padding[0])
    x = pad(x, margins, mode="constant" if unit.padding_mode == "zeros" else unit.padding_mode)
    per_group = unit.in_channels // unit.groups
    height, width = ((x.shape[2 + a] - d * (k - 1) - 1) // s + 1 for a, d, k, s in ((0, dh, kh, sh), (1, dw, kw, sw)))
    y = torch.zeros(x.shape[0], unit.out_channels, height, width, dtype=x.dtype)
    for n, o, r, c in itertools.product(range(x.shape[0]), range(unit.out_channels), range(height), range(width)):
        z = x_sum = 0.0
        first = o // (unit.out_channels // unit.groups) * per_group
        for i, u, v in itertools.product(range(per_group), range(kh), range(kw)):
            value = x[n, first + i, r * sh + u * dh, c * sw + v * dw]
            z, x_sum = z + unit.weight[o, i, u, v] * value, x_sum + value
        if unit.reduce == "mean":
            x_sum = x_sum / (per_group * kh * kw)
        inner = z - unit.w_prime[o] * x_sum
        if unit.gate_bn is not None:
            bn = unit.gate_bn
            inner = (inner - bn.running_mean[o]) / torch.sqrt(bn.running_var[o] + bn.eps) * bn.weight[o] + bn.bias[o]
        if unit.b1 is not None:
            inner = inner + unit.b1[o]
        opened = torch.clamp(inner, min=0)
        y[n, o, r, c] = z + (opened if unit.gate_scale is None else unit.gate_scale[o] * opened)
        if unit.bias is not None:
            y[n, o, r, c] += unit.bias[o]
    return y


OPTIONS = [
    {},
    {"inner_bias": False},
    {"reduce": "mean"},
    {"gate": "closed"},
    {"inner_norm": True},
    {"inner_norm": True, "gate": "closed", "reduce": "mean"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_forward_and_fuse_are_the_neuron(geometry, options):
    torch.manual_seed(0)
    unit = randomised(ICConv2d(**geometry, **options, dtype=torch.float64))
    x = torch.randn(1, geometry["in_channels"], 7, 6, dtype=torch.float64)
    expected = naive(unit, x)
    torch.testing.assert_close(unit(x), expected, rtol=0, atol=1e-10)
    fused = unit.fuse()
    assert isinstance(fused, FusedIC)
    torch.testing.assert_close(fused(x), expected, rtol=0, atol=1e-9)
    with torch.no_grad():  # overwrites its own results, by another road for few and for many pixels
        torch.testing.assert_close(fused(x), expected, rtol=0, atol=1e-9)
        many = x.repeat(250, 1, 1, 1).contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(fused(many)[-1:], expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(unit(x[0]), expected[0], rtol=0, atol=1e-10)
    torch.testing.assert_close(fused(x[0]), expected[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("padding_mode", ["reflect", "replicate", "circular"])
def test_padding_modes(padding_mode):
    unit = randomised(ICConv2d(2, 3, 3, 2, (1, 2), padding_mode=padding_mode, dtype=torch.float64))
    x = torch.randn(1, 2, 6, 7, dtype=torch.float64)
    torch.testing.assert_close(unit(x), naive(unit, x), rtol=0, atol=1e-11)
    torch.testing.assert_close(unit.fuse()(x), unit(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", [p.stem for p in sorted(GOLDEN.glob("*.pt"))])
@pytest.mark.parametrize("gate", ["open", "closed"])
def test_golden(name, gate):
    case = torch.load(GOLDEN / f"{name}.pt", weights_only=True)
    config, state, x, expected = case["config"], dict(case["state_dict"]), case["input"], case["output"]
    state["bias"] = state.pop("b2")
    if gate == "closed":
        state["gate_scale"] = torch.ones_like(state["b1"])
    if config.get("kind") == "linear":  # a linear layer is the 1x1 convolution of a single pixel
        unit = ICConv2d(config["in_features"], config["out_features"], 1, gate=gate, dtype=torch.float64)
        state["weight"], x, expected = (
            state["weight"][:, :, None, None],
            x[:, :, None, None],
            expected[:, :, None, None],
        )
    else:
        unit = ICConv2d(
            config["C"], config["O"], config["K"], config["stride"], config["pad"], config["dil"], config["groups"],
            gate=gate, dtype=torch.float64,
        )  # fmt: skip
    unit.load_state_dict(state)
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        torch.testing.assert_close(unit(given), expected, rtol=0, atol=1e-9)
        torch.testing.assert_close(unit.eval().fuse()(given), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("options", [*OPTIONS[:4], {"w_init": "zero"}], ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES[:3], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients(geometry, options, layout):
    torch.manual_seed(1)
    small = geometry | {"dilation": 1, "padding": 2}
    unit = randomised(ICConv2d(**small, **options, dtype=torch.float64))
    x = torch.randn(2, geometry["in_channels"], 4, 5, dtype=torch.float64).contiguous(memory_format=layout)
    names = [name for name, _ in unit.named_parameters()]

    def run(x, *values):
        return torch.func.functional_call(unit, dict(zip(names, values, strict=True)), (x,))

    values = [p.detach().requires_grad_() for p in unit.parameters()]
    assert torch.autograd.gradcheck(run, (x.requires_grad_(), *values), fast_mode=True)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_fold_affine_absorbs_negative_and_zero_scales_again_and_again(options, groups):
    torch.manual_seed(2)
    unit = randomised(ICConv2d(4, 12, 3, padding=1, groups=groups, **options, dtype=torch.float64))
    if unit.gate_scale is not None:
        with torch.no_grad():
            unit.gate_scale[:4] = torch.tensor([-1.0, -3.0, -0.999, 0.0])
    if unit.gate_bn is not None:
        with torch.no_grad():
            unit.gate_bn.weight[2:6] = 0.0
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64)
    fused, expected = unit.fuse(), unit(x)
    torch.testing.assert_close(fused(x), expected, rtol=0, atol=1e-9)
    for _ in range(3):
        scale, shift = torch.randn(2, 12, dtype=torch.float64)
        scale[7:9] = 0.0 if _ == 2 else scale[7:9]
        fused.fold_affine(scale, shift)
        expected = expected * scale[:, None, None] + shift[:, None, None]
        torch.testing.assert_close(fused(x), expected, rtol=1e-9, atol=1e-9)


def test_fused_states_load_with_their_signs():
    torch.manual_seed(4)
    first, second = (ICConv2d(2, 4, 3, gate="closed").eval().fuse() for _ in range(2))
    first.fold_affine(torch.tensor([1.0, -1, 0, -2]), torch.randn(4))
    second.load_state_dict(first.state_dict())
    x = torch.randn(1, 2, 5, 5)
    torch.testing.assert_close(second(x), first(x), rtol=0, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(second(x), first(x.clone().requires_grad_()))


def test_fused_stays_a_leaky_relu_without_negative_scales():
    fused = ICConv2d(3, 4, 3).eval().fuse()
    assert fused.leaky
    assert not fused.signed
    fused.fold_affine(torch.rand(4) + 0.1, torch.randn(4))
    assert fused.leaky
    fused.fold_affine(torch.tensor([1.0, -1, 1, 1]), torch.zeros(4))
    assert not fused.leaky
    assert not fused.signed


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_starts_exactly_from_a_convolution_and_the_gate_comes_alive(geometry):
    torch.manual_seed(3)
    conv = nn.Conv2d(**geometry, dtype=torch.float64)
    unit = ICConv2d.from_conv(conv)
    x = torch.randn(2, geometry["in_channels"], 8, 7, dtype=torch.float64)
    torch.testing.assert_close(unit(x), conv(x), rtol=0, atol=1e-12)
    unit(x).square().sum().backward()
    assert (unit.gate_scale.grad != 0).all()
    with torch.no_grad():
        unit.gate_scale -= 0.01 * unit.gate_scale.grad.sign()
    unit.zero_grad()
    unit(x).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in unit.parameters())
    assert ICConv2d.warm_start_for(conv) == "exact"
    assert ICConv2d.warm_start_for(conv, gate="open") == "approximate"


def test_fresh_start_is_the_papers_neuron_on_the_hosts_weight():
    conv = nn.Conv2d(4, 6, 3)
    unit = ICConv2d.fresh_like(conv)
    assert unit.gate_scale is None
    assert torch.equal(unit.weight, conv.weight)
    torch.testing.assert_close(unit.w_prime, conv.weight.mean((1, 2, 3)))
    assert unit.b1.eq(0).all()


@pytest.mark.parametrize(("w_init", "value"), [("zero", 0.0), ("one", 1.0), (0.25, 0.25), (-2, -2.0)])
@pytest.mark.filterwarnings("ignore:w_init='one'")
def test_w_init(w_init, value):
    assert ICConv2d(2, 3, 3, w_init=w_init).w_prime.eq(value).all()
    mean = ICConv2d(2, 3, 3, w_init=w_init, reduce="mean")
    assert mean.w_prime.eq(18 * value).all()


@pytest.mark.filterwarnings("ignore:w_init='one'")
def test_gates_at_the_start():
    """The mean opens half of the gates; one shuts all of them (measured facts of the literature note)."""
    torch.manual_seed(0)
    x = torch.randn(2, 64, 12, 12).relu()
    for w_init, low, high in (("mean", 0.4, 0.6), ("zero", 0.4, 0.6), ("one", 0.0, 0.0)):
        unit = ICConv2d(64, 64, 3, bias=False, w_init=w_init)
        nn.init.kaiming_normal_(unit.weight)
        with torch.no_grad():
            unit.reset_w_prime()
        opened = unit(x) - nn.functional.conv2d(x, unit.weight) > 1e-4
        assert low <= opened.float().mean().item() <= high


def test_one_warns_and_is_alone_in_that(recwarn):
    for w_init in ("mean", "zero", 0.5):
        ICConv2d(1, 1, 3, w_init=w_init)
    assert not recwarn.list
    with pytest.warns(UserWarning, match="gate stays shut"):
        ICConv2d(1, 1, 3, w_init="one")


def test_both_reductions_are_one_function_at_the_start():
    first = ICConv2d(3, 4, 3, dtype=torch.float64)
    second = ICConv2d(3, 4, 3, reduce="mean", dtype=torch.float64)
    with torch.no_grad():
        second.copy_initial(first)
    x = torch.randn(1, 3, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(first(x), second(x))


@pytest.mark.filterwarnings("ignore:w_init='one'")
@pytest.mark.parametrize("w_init", ["mean", "zero", "one"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("gate", ["open", "closed"])
def test_bfloat16_autocast_loses_no_more_than_the_convolution_does(w_init, layout, gate):
    torch.manual_seed(0)
    unit = ICConv2d(64, 16, 3, padding=1, w_init=w_init, gate=gate)
    nn.init.kaiming_normal_(unit.weight)
    with torch.no_grad():
        unit.reset_w_prime()
        if unit.gate_scale is not None:
            unit.gate_scale.fill_(1.0)
    x = torch.randn(2, 64, 9, 10).relu().contiguous(memory_format=layout)
    exact = copy.deepcopy(unit).double()(x.double())
    with torch.autocast("cpu", torch.bfloat16):
        y = unit(x)
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=layout)
    error = (y.double() - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert error < 0.01


def test_the_sum_filter_is_no_dense_convolution():
    unit, conv = ICConv2d(16, 32, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
    x = torch.randn(1, 16, 8, 8)
    flops = []
    for module in (conv, unit):
        with FlopCounterMode(display=False) as counter:
            module(x)
        flops.append(counter.get_total_flops())
    assert flops[1] <= flops[0] * 1.02


def test_parameters_added_to_a_resnet18():
    """Note section 4: 3,840 values of w' in the spatial convolutions without the stem, and as many of b1."""
    widths = [(64, 64)] * 4 + [(64, 128)] + [(128, 128)] * 3 + [(128, 256)] + [(256, 256)] * 3 + [(256, 512)]
    widths += [(512, 512)] * 3

    def count(**options) -> int:
        units = (ICConv2d(i, o, 3, bias=False, device="meta", **options) for i, o in widths)
        return sum(p.numel() for unit in units for p in unit.parameters()) - sum(9 * i * o for i, o in widths)

    assert count(inner_bias=False) == 3840
    assert count() == 2 * 3840
    assert count(gate="closed") == 3 * 3840


def test_compiles_and_exports():
    for options in ({}, {"gate": "closed"}):
        unit = ICConv2d(2, 4, 3, 2, 1, **options).eval()
        x = torch.randn(2, 2, 8, 9)
        for module in (unit, unit.fuse()):
            expected = module(x)
            torch.testing.assert_close(torch.export.export(module, (x,)).module()(x), expected)
            torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="aot_eager")(x), expected)


def test_fuse_leaves_the_unit_alone_and_follows_dtype_and_mode():
    unit = ICConv2d(2, 4, 3).half().eval()
    before = copy.deepcopy(unit.state_dict())
    fused = unit.fuse()
    fused.fold_affine(torch.full((4,), 2.0), torch.ones(4))
    assert fused.weight.dtype == torch.float16
    assert all(torch.equal(before[key], value) for key, value in unit.state_dict().items())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"w_init": "half"}, "w_init='half'"),
        ({"w_init": math.nan}, "w_init=nan"),
        ({"w_init": True}, "w_init=True"),
        ({"reduce": "max"}, "reduce='max'"),
        ({"gate": "ajar"}, "gate='ajar'"),
        ({"inner_norm": "yes"}, "inner_norm='yes'"),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        ICConv2d(1, 1, 3, **options)


def test_reset_starts_everything_again():
    torch.manual_seed(0)
    unit = randomised(ICConv2d(3, 4, 3, gate="closed", inner_norm=False))
    unit.reset_parameters()
    torch.testing.assert_close(unit.w_prime, unit.weight.mean((1, 2, 3)))
    for zero in (unit.b1, unit.gate_scale):
        assert not zero.any()
    bound = 1 / math.sqrt(27)
    assert unit.weight.abs().max() <= bound
    assert unit.bias.abs().max() <= bound
    normed = randomised(ICConv2d(3, 4, 3, inner_norm=True))
    normed.reset_parameters()
    assert (normed.gate_bn.weight == 1).all()
    assert not normed.gate_bn.running_mean.any()
