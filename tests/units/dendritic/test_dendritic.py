"""The dendritic layers against naive loops, the golden tensors, and their forms with few biases."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import convswap
from convswap.ops.dendritic import dendritic_conv2d_reference
from convswap.units import DendriticConv2d, DendriticLinear, LevelConv2d
from convswap.units.dendritic.dendritic import rectified_correlation
from convswap.units.dendritic.levels import cluster

GEOMETRIES: list[dict[str, Any]] = [
    {"in_channels": 3, "out_channels": 4, "kernel_size": 3, "padding": 1},
    {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "stride": 2, "groups": 2, "bias": False},
    {"in_channels": 3, "out_channels": 6, "kernel_size": 5, "padding": 4, "dilation": 2, "groups": 3},
    {"in_channels": 3, "out_channels": 2, "kernel_size": (2, 3), "stride": (1, 2), "padding": (1, 2)},
    {"in_channels": 2, "out_channels": 3, "kernel_size": (4, 3), "padding": "same"},
    {"in_channels": 2, "out_channels": 3, "kernel_size": 3, "padding": 2, "padding_mode": "reflect"},
]
SHARINGS = ["pair", "tap", "input"]


def margins_of(unit: DendriticConv2d) -> tuple[int, int, int, int]:
    if unit.padding == "same":
        rows, columns = (d * (k - 1) for d, k in zip(unit.dilation, unit.kernel_size, strict=True))
        return columns // 2, columns - columns // 2, rows // 2, rows - rows // 2
    return unit.padding[1], unit.padding[1], unit.padding[0], unit.padding[0]


def naive(unit: DendriticConv2d, x: Tensor) -> Tensor:
    """One output pixel after the other, one connection after the other."""
    (kh, kw), (sh, sw), (dh, dw) = unit.kernel_size, unit.stride, unit.dilation
    zeros = unit.padding_mode == "zeros"
    margins = margins_of(unit)
    real = F.pad(torch.ones_like(x), margins) if zeros and unit.pad == "after" else None
    x = F.pad(x, margins, mode="constant" if zeros else unit.padding_mode)
    per_group = unit.in_channels // unit.groups
    height, width = ((x.shape[2 + a] - d * (k - 1) - 1) // s + 1 for a, d, k, s in ((0, dh, kh, sh), (1, dw, kw, sw)))
    y = torch.zeros(x.shape[0], unit.out_channels, height, width, dtype=x.dtype)
    for n, o, r, c in itertools.product(*map(range, y.shape)):
        first = o // (unit.out_channels // unit.groups) * per_group
        total = 0.0 if unit.bias is None else unit.bias[o]
        for i, u, v in itertools.product(range(per_group), range(kh), range(kw)):
            own = {"pair": (o, i), "tap": (o, i, u, v), "input": (first + i,)}[unit.bias_sharing]
            at = n, first + i, r * sh + u * dh, c * sw + v * dw
            if real is None or real[at] == 1:
                total = total + unit.weight[o, i, u, v] * torch.clamp(x[at] + unit.dendrite_bias[own], min=0)
        y[n, o, r, c] = total
    return y


def randomised(**arguments: Any) -> DendriticConv2d:
    unit = DendriticConv2d(**arguments, dtype=torch.float64)
    with torch.no_grad():
        for parameter in unit.parameters():
            parameter.normal_()
    return unit


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("pad", ["after", "before"])
@pytest.mark.parametrize("bias_sharing", SHARINGS)
def test_equals_naive_loops(geometry: dict[str, Any], pad: str, bias_sharing: str) -> None:
    torch.manual_seed(0)
    unit = randomised(**geometry, pad=pad, bias_sharing=bias_sharing)
    x = torch.randn(2, unit.in_channels, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(unit(x), naive(unit, x), rtol=0, atol=1e-10)
    torch.testing.assert_close(unit(x[0]), unit(x)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", ["case_0_pair_after_k3_s1", "case_1_pair_before_k3_s2", "case_3_pair_after_k1_s1"])
def test_golden_convolutions(case: str, golden: Any) -> None:
    data = golden("dac")[case]
    config, x = data["config"], data["input"].requires_grad_()
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding")
    options = {"bias": False, "bias_sharing": config["share"], "pad": config["pad_mode"]}
    unit = DendriticConv2d(**{n: config[n] for n in names}, **options, dtype=torch.float64)
    unit.load_state_dict({"weight": data["state_dict"]["weight"], "dendrite_bias": data["state_dict"]["bias"]})
    y = unit(x)
    torch.testing.assert_close(y, data["output"], rtol=0, atol=1e-10)
    (y * data["loss_weight"]).sum().backward()
    assert unit.dendrite_bias.grad is not None
    for found, name in ((x, "input"), (unit.weight, "weight"), (unit.dendrite_bias, "bias")):
        torch.testing.assert_close(found.grad, data[f"grad_{name}"], rtol=0, atol=1e-10)


def test_golden_linear(golden: Any) -> None:
    data = golden("dac")["case_linear"]
    layer = DendriticLinear(data["config"]["in_features"], data["config"]["out_features"], dtype=torch.float64)
    layer.load_state_dict({"weight": data["state_dict"]["weight"], "dendrite_bias": data["state_dict"]["bias"]})
    torch.testing.assert_close(layer(data["input"]), data["output"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("bias_sharing", ["pair", "input"])
@pytest.mark.parametrize("bias", [False, True])
def test_linear_equals_naive_loops(bias_sharing: str, bias: bool) -> None:
    torch.manual_seed(0)
    layer = DendriticLinear(5, 4, bias, bias_sharing=bias_sharing, bias_init=0.7, dtype=torch.float64)
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    y = torch.zeros(2, 3, 4, dtype=torch.float64)
    for a, b, i in itertools.product(range(2), range(3), range(4)):
        total = torch.zeros((), dtype=torch.float64) if layer.bias is None else layer.bias[i]
        for j in range(5):
            kink = layer.dendrite_bias[i, j] if bias_sharing == "pair" else layer.dendrite_bias[j]
            total = total + layer.weight[i, j] * torch.clamp(x[a, b, j] + kink, min=0)
        y[a, b, i] = total
    torch.testing.assert_close(layer(x), y, rtol=0, atol=1e-12)
    values = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    names = [name for name, _ in layer.named_parameters()]
    assert torch.autograd.gradcheck(
        lambda x, *v: torch.func.functional_call(layer, dict(zip(names, v, strict=True)), (x,)), (x, *values)
    )
    assert layer(x[0, 0]).shape == (4,)
    assert layer(x[:0]).shape == (0, 3, 4)


def test_linear_compiles_exports_and_travels() -> None:
    layer = DendriticLinear(6, 3, True, bias_init=0.5)
    x = torch.randn(4, 6)
    expected = layer(x)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), expected)
    exported = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()
    torch.testing.assert_close(exported(torch.cat([x, x])), layer(torch.cat([x, x])))
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    assert (y.float() - expected).abs().max() < 0.03 * expected.abs().max()
    with FlopCounterMode(display=False) as counter:
        layer(x)
    assert counter.get_total_flops() == 2 * 4 * 6 * 3


def test_linear_parameters_are_those_of_the_note() -> None:
    assert sum(p.numel() for p in DendriticLinear(7, 5).parameters()) == 2 * 7 * 5


@pytest.mark.parametrize("bias_sharing", SHARINGS)
def test_starts_as_the_convolution_after_a_relu(bias_sharing: str) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 4, 3, 2, 1, groups=2, dtype=torch.float64)
    x = torch.randn(2, 6, 7, 7, dtype=torch.float64)
    options = {"bias_sharing": bias_sharing}
    for unit in (
        DendriticConv2d.from_conv(conv, bias_init=0.5, **options),
        DendriticConv2d.fresh_like(conv, **options),
    ):
        torch.testing.assert_close(unit(x), conv(x.relu()), rtol=0, atol=1e-12)
        torch.testing.assert_close(unit(x.abs()), conv(x.abs()), rtol=0, atol=1e-12)
    noisy = DendriticConv2d.fresh_like(conv, bias_init=0.5, **options).dendrite_bias
    assert 0 < noisy.abs().max() <= 0.5


@pytest.mark.parametrize("shift", [0.0, 0.002, 0.02])
def test_the_warm_start_says_when_it_is_an_approximation(shift: float) -> None:
    """Weights of one sign make the channels' means all there is; nothing is promised there."""
    torch.manual_seed(0)
    conv = nn.Conv2d(32, 64, 3)
    with torch.no_grad():
        conv.weight.add_(shift * torch.linspace(-1, 1, 64)[:, None, None, None])
    x = torch.randn(4, 32, 24, 24)
    with torch.no_grad():
        pair = torch.stack([conv(x).flatten(), DendriticConv2d.from_conv(conv)(x).flatten()])
    measured = float(torch.corrcoef(pair)[0, 1])
    assert abs(measured - rectified_correlation(conv)) < 0.03
    assert DendriticConv2d.warm_start_for(conv) == ("approximate" if measured > 0.55 else "none")
    assert (measured > 0.55) == (shift < 0.02)
    assert DendriticConv2d.warm_start_for(nn.Conv2d(8, 64, 3)) == "none"


def test_biases_of_a_resnet20() -> None:
    """Note section 4: 29,696 biases beside the 267,264 weights of the 18 spatial convolutions after the first."""
    plain = convswap.create_model("cifar_resnet20", num_classes=10).eval()
    x = torch.randn(2, 3, 32, 32)
    model = convswap.swap(plain, "dendritic", example_input=x)
    units = [m for m in model.modules() if isinstance(m, DendriticConv2d)]
    assert len(units) == 18
    assert sum(u.weight.numel() for u in units) == 267_264
    assert sum(u.dendrite_bias.numel() for u in units) == 29_696
    # Every replaced convolution reads rectified maps, so the swapped network starts as the host.
    torch.testing.assert_close(model(x), plain(x), rtol=1e-4, atol=1e-4)
    relus = [sum(isinstance(m, nn.ReLU) for m in network.modules()) for network in (plain, model)]
    assert relus == [19, 10], "the ReLU inside each of the nine blocks feeds only a unit"


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("pad", ["after", "before"])
@pytest.mark.parametrize("bias_sharing", SHARINGS)
def test_few_biases_make_an_ordinary_convolution(geometry: dict[str, Any], pad: str, bias_sharing: str) -> None:
    torch.manual_seed(1)
    unit = randomised(**geometry, pad=pad, bias_sharing=bias_sharing).eval()
    with torch.no_grad():  # three values, other ones for every input channel
        index = torch.randint(3, unit.dendrite_bias.shape)
        if bias_sharing == "input":
            unit.dendrite_bias.copy_(torch.randn(unit.in_channels))
        else:
            table = torch.randn(unit.groups, 1, unit.in_channels // unit.groups, *[1] * (index.dim() - 2), 3)
            wide = table.expand(-1, unit.out_channels // unit.groups, *[-1] * (table.dim() - 2)).flatten(0, 1)
            wide = wide.expand(*index.shape, 3).to(torch.float64)
            unit.dendrite_bias.copy_(wide.gather(-1, index.unsqueeze(-1)).squeeze(-1))
    x = torch.randn(2, unit.in_channels, 6, 5, dtype=torch.float64)
    fused = unit.fuse(levels=3)
    assert isinstance(fused, LevelConv2d)
    assert type(fused.conv) is nn.Conv2d
    assert fused.bias_error == 0.0
    torch.testing.assert_close(fused(x), unit(x), rtol=0, atol=1e-10)
    torch.testing.assert_close(fused(x[0]), unit(x)[0], rtol=0, atol=1e-10)


def test_levels_trade_error_for_multiplications() -> None:
    torch.manual_seed(0)
    unit = randomised(in_channels=4, out_channels=24, kernel_size=3, padding=1).eval()
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    errors, differences = [], []
    for levels in (1, 2, 4, 8, 24):
        fused = unit.fuse(levels=levels)
        assert fused.conv.in_channels == 4 * levels
        assert fused.levels.shape == (4, levels)
        errors.append(fused.bias_error)
        differences.append(float((fused(x) - unit(x)).detach().abs().max()))
        # a bias moved by e moves an output by at most e times the sum of its absolute weights
        bound = fused.bias_error * unit.weight.abs().sum((1, 2, 3)).max()
        assert differences[-1] <= bound + 1e-12
    assert errors == sorted(errors, reverse=True)
    assert differences == sorted(differences, reverse=True)
    assert errors[-1] == 0
    assert differences[-1] < 1e-10
    assert unit.fuse(levels=1000).levels.shape == (4, 24)


def test_clusters_are_exact_deterministic_and_no_worse_than_one_level_each() -> None:
    values = torch.tensor([[0.1, 0.7, 0.1, 0.3, 0.7], [2.0, 2.0, 2.0, 2.0, 2.0], [0.0, 0.1, 0.2, 5.0, 5.1]]).double()
    levels, nearest, error = cluster(values, 3)
    assert error < 0.11
    assert torch.equal(levels.gather(1, nearest)[:2], values[:2])
    assert all(torch.equal(a, b) for a, b in zip(cluster(values, 3)[:2], (levels, nearest), strict=True))
    means, members, _ = cluster(values[2:], 2)
    torch.testing.assert_close(means, torch.tensor([[0.1, 5.05]]).double())
    assert members.tolist() == [[0, 0, 0, 1, 1]]


def test_fuse_without_levels_folds_single_biases_and_copies_others() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    for arguments in ({"out_channels": 4, "groups": 4}, {"out_channels": 6, "bias_sharing": "input", "bias_init": 0.5}):
        fused = DendriticConv2d(4, kernel_size=3, **arguments, dtype=torch.float64).fuse()
        assert isinstance(fused, LevelConv2d)
        assert fused.levels.shape == (4, 1)
    # Equal biases at the start do not make it another form: a saved model could not find that form again.
    new = DendriticConv2d(4, 6, 3, dtype=torch.float64)
    for unit in (new, randomised(in_channels=4, out_channels=6, kernel_size=3)):
        fused = unit.fuse()
        assert isinstance(fused, DendriticConv2d)
        assert torch.equal(fused(x), unit(x))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("levels", [None, 2])
def test_fused_forms_absorb_a_following_affine(bias: bool, levels: int | None) -> None:
    torch.manual_seed(0)
    unit = randomised(in_channels=4, out_channels=6, kernel_size=3, bias=bias).eval()
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    fused, scale, shift = unit.fuse(levels=levels), torch.randn(6).double(), torch.randn(6).double()
    expected = fused(x) * scale[:, None, None] + shift[:, None, None]
    fused.fold_affine(scale, shift)
    torch.testing.assert_close(fused(x), expected, rtol=0, atol=1e-10)


def test_a_whole_network_fuses() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6))
    model = convswap.swap(model, "dendritic", start="fresh", bias_init=0.3)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_var.uniform_(0.5, 2)
            norm.running_mean.normal_()
    fused = convswap.fuse(model.eval(), torch.randn(1, 3, 9, 9))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    x = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(fused(x), model(x), rtol=1e-4, atol=1e-4)


def test_flops_are_counted_also_after_unpickling() -> None:
    unit = pickle.loads(pickle.dumps(DendriticConv2d(4, 6, 3, bias_init=0.1)))
    with FlopCounterMode(display=False) as counter:
        unit(torch.randn(2, 4, 7, 7))
    assert counter.get_total_flops() == 2 * 2 * 4 * 6 * 9 * 25


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bias_sharing": "none"}, "bias_sharing='none' is not allowed; choose one of 'pair', 'tap', 'input'"),
        ({"pad": "around"}, "pad='around' is not allowed"),
        ({"bias_init": -0.1}, "bias_init=-0.1 is not allowed; give a number of at least 0"),
        ({"bias_init": True}, "bias_init=True"),
        ({"bias_init": float("inf")}, "bias_init=inf"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DendriticConv2d(2, 3, 3, **options)


def test_bad_values_of_the_linear_layer_and_of_levels_are_named() -> None:
    with pytest.raises(ValueError, match="bias_sharing='tap'"):
        DendriticLinear(2, 3, bias_sharing="tap")
    with pytest.raises(ValueError, match=r"shape \(2, 4\) is not allowed; give a last dimension of 2"):
        DendriticLinear(2, 3)(torch.zeros(2, 4))
    for levels in (0, 1.5, True):
        with pytest.raises(ValueError, match=f"levels={levels!r}"):
            DendriticConv2d(2, 3, 3).fuse(levels=levels)  # type: ignore[arg-type]


@pytest.mark.parametrize("outputs", [6, 12])
@pytest.mark.parametrize("pad", ["after", "before"])
def test_depthwise_takes_the_direct_way_to_the_same_values(outputs: int, pad: str) -> None:
    torch.manual_seed(0)
    unit = DendriticConv2d(6, outputs, 3, stride=2, padding=1, groups=6, pad=pad, bias_init=0.5, dtype=torch.float64)
    x = torch.randn(2, 6, 9, 7, dtype=torch.float64)
    margins = (1, 1, 1, 1)
    padded, after = (x, margins) if pad == "after" else (F.pad(x, margins), (0, 0, 0, 0))
    expected = dendritic_conv2d_reference(padded, unit.weight, unit.dendrite_bias, unit.bias, (2, 2), after, (1, 1), 6)
    torch.testing.assert_close(unit(x), expected, rtol=1e-12, atol=1e-12)
