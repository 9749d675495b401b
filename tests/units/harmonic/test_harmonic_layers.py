"""The layers of harmonic networks against naive loops, the official code's tensors, and the law of rotation."""

from __future__ import annotations

import cmath
import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from convswap.units import (
    ComplexBatchNorm,
    ComplexReLU,
    HarmonicConv2d,
    HarmonicMeanPool,
    MagnitudeAffine,
    magnitude_sum,
)
from convswap.units.harmonic.basis import quarter_turn_exact, ring_basis, ring_radii

DOUBLE = {"dtype": torch.float64}
FLOAT_MADE = 1e-6  # the official tensors were computed in float32


def flat(x_BHWOPC: Tensor) -> Tensor:
    """The reference's layout (batch, row, column, order, re | im, channel) as ours."""
    return x_BHWOPC.double().flatten(3).permute(0, 3, 1, 2).contiguous()


def as_complex(z_NCHW: Tensor, orders: int) -> Tensor:
    """Ours as complex (N, order, channel, H, W)."""
    z = z_NCHW.unflatten(1, (orders, 2, -1))
    return torch.complex(z[:, :, 0], z[:, :, 1])


def close(value: Tensor, expected: Tensor, tolerance: float) -> None:
    assert value.shape == expected.shape
    value, expected = value.detach(), expected.detach()
    assert float((value - expected).abs().max()) <= tolerance * max(1.0, float(expected.abs().max()))


def basis_by_loop(size: int, rings: int, order: int) -> list[list[list[complex]]]:
    """B_m[r](q) as the definition reads, one number at a time."""
    samples = max(math.ceil(math.pi * size), 101)
    start = 0.0 if order == 0 else 1.0
    found = []
    for ring in range(rings):
        radius = start if rings == 1 else start + (rings - 0.5 - start) * ring / (rings - 1)
        total = [[0j] * size for _ in range(size)]
        for n in range(samples):
            angle = 2 * math.pi * n / samples
            point = (-radius * math.sin(angle), radius * math.cos(angle))
            near = [
                [
                    math.exp(-((point[0] - (i + 0.5 - size / 2)) ** 2 + (point[1] - (j + 0.5 - size / 2)) ** 2) / 0.5)
                    for j in range(size)
                ]
                for i in range(size)
            ]
            whole = sum(map(sum, near))
            for i, j in itertools.product(range(size), range(size)):
                total[i][j] += cmath.exp(-1j * order * angle) * near[i][j] / whole
        found.append(total)
    return found


@pytest.mark.parametrize(("size", "rings", "order"), [(3, 2, 0), (3, 1, 1), (4, 2, 1), (5, 4, 1), (5, 2, 2), (7, 3, 3)])
def test_ring_basis_is_the_definition(size, rings, order):
    close(
        ring_basis(size, rings, order), torch.tensor(basis_by_loop(size, rings, order), dtype=torch.complex128), 1e-12
    )


def test_ring_basis_golden(golden):
    for case in golden("harmonic")["case_basis"]["cases"].values():
        c = case["config"]
        close(ring_radii(c["n_rings"], c["m"]), case["radii"], 1e-14)
        close(ring_basis(c["filter_size"], c["n_rings"], c["m"]), case["basis"], 1e-12)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_quarter_turns_multiply_by_a_power_of_i(order):
    given = ring_basis(5, 4, order)
    exact = quarter_turn_exact(given, order)
    assert float((exact - given).abs().max()) < 1e-7  # all that 101 samples leave
    close(torch.rot90(exact, 1, (1, 2)), 1j**order * exact, 1e-14)
    close(quarter_turn_exact(exact, order), exact, 1e-14)


def filters_by_loop(conv: HarmonicConv2d) -> list[Tensor]:
    """F_m, complex (out, in, k, k), for m = 0 .. highest, from the definition."""
    found = []
    for order in range(conv.highest + 1):
        basis = torch.tensor(basis_by_loop(conv.kernel_size[0], conv.rings, order), dtype=torch.complex128)
        if conv.basis == "unit":
            for r in range(conv.rings):
                basis[r] /= sum(abs(v) ** 2 for v in basis[r].flatten().tolist()) ** 0.5
        out, incoming = conv.streams[1], conv.streams[0]
        filters = torch.zeros(out, incoming, *conv.kernel_size, dtype=torch.complex128)
        for o, i in itertools.product(range(out), range(incoming)):
            for r in range(conv.rings):
                filters[o, i] += conv.weight[conv.dead + order, o, i, r].item() * basis[r]
            if conv.phase is not None:
                filters[o, i] *= cmath.exp(-1j * conv.phase[conv.dead + order, o, i].item())
        found.append(filters)
    return found


def convolved_by_loop(conv: HarmonicConv2d, x: Tensor, margin: int) -> Tensor:
    """`Y_o = sum_i F_{o-i} * X_i`, one output pixel at a time; x complex (N, order, C, H, W)."""
    filters, k = filters_by_loop(conv), conv.kernel_size[0]
    x = torch.nn.functional.pad(x, (margin,) * 4)
    height, width = x.shape[3] - k + 1, x.shape[4] - k + 1
    y = torch.zeros(len(x), conv.max_order + 1, conv.streams[1], height, width, dtype=torch.complex128)
    for o, i in itertools.product(range(conv.max_order + 1), range(x.shape[1])):
        f = filters[o - i] if o >= i else filters[i - o].conj()
        if o == i and conv.zero_order_phase == "code" and conv.max_order_in is not None:
            f = f.real.to(torch.complex128)
        for row, column in itertools.product(range(height), range(width)):
            window = x[:, i, None, :, row : row + k, column : column + k]
            y[:, o, :, row, column] += (window * f).sum((2, 3, 4))
    return y


@pytest.mark.parametrize("zero_order_phase", ["paper", "code"])
@pytest.mark.parametrize(
    ("max_order_in", "options"),
    [
        (None, {"max_order": 1}),
        (1, {"max_order": 1, "rings": 4}),
        (2, {"max_order": 1, "kernel_size": 3}),
        (0, {"max_order": 2, "basis": "sum"}),
        (1, {"max_order": 1, "phase": False, "dead_weights": True}),
    ],
)
@torch.no_grad()
def test_convolution_is_the_formula(max_order_in, options, zero_order_phase):
    torch.manual_seed(0)
    arguments = {"kernel_size": 5, **options}
    conv = HarmonicConv2d(2, 3, max_order_in=max_order_in, zero_order_phase=zero_order_phase, **arguments, **DOUBLE)
    orders = 1 if max_order_in is None else max_order_in + 1
    if max_order_in is None:
        x = torch.randn(2, 2, 6, 5, **DOUBLE)
        z = x[:, None].to(torch.complex128)
    else:
        x = torch.randn(2, 4 * orders, 6, 5, **DOUBLE)
        z = as_complex(x, orders)
    expected = convolved_by_loop(conv, z, arguments["kernel_size"] // 2)
    scale = 1 if conv.basis == "unit" else 101  # the last digits of 101 samples, see `quarter_turn_exact`
    for module in (conv, conv.fuse()):
        close(as_complex(module(x), conv.max_order + 1) / scale, expected / scale, 2e-8)
    assert type(conv.fuse()) is nn.Conv2d
    # To rounding, with the same exact quarter turns in the reference.
    turned = convolved_by_loop_exact(conv, z, arguments["kernel_size"] // 2)
    close(as_complex(conv(x), conv.max_order + 1), turned, 1e-12)


def convolved_by_loop_exact(conv: HarmonicConv2d, x: Tensor, margin: int) -> Tensor:
    """The same from bases that are averaged over the four turns first; by complex convolutions."""
    k, y = conv.kernel_size[0], []
    filters = []
    for order in range(conv.highest + 1):
        basis = torch.tensor(basis_by_loop(k, conv.rings, order), dtype=torch.complex128)
        basis = sum((1j**-order) ** t * torch.rot90(basis, t, (1, 2)) for t in range(4)) / 4
        if conv.basis == "unit":
            basis = basis / basis.abs().square().sum((1, 2), keepdim=True).sqrt()
        profile = conv.weight[conv.dead + order].to(torch.complex128)
        if conv.phase is not None:
            profile = profile * torch.exp(-1j * conv.phase[conv.dead + order])[..., None]
        filters.append(torch.einsum("oir,rkl->oikl", profile, basis))
    for o in range(conv.max_order + 1):
        total = 0
        for i in range(x.shape[1]):
            f = filters[o - i] if o >= i else filters[i - o].conj().resolve_conj()
            if o == i and conv.zero_order_phase == "code" and conv.max_order_in is not None:
                f = f.real.to(torch.complex128)
            total = total + torch.nn.functional.conv2d(x[:, i], f, padding=margin)
        y.append(total)
    return torch.stack(y, 1)


@pytest.mark.parametrize("name", ["case_conv_real_in", "case_conv_complex_in_order2_nophase"])
def test_convolution_golden(golden, name):
    case = golden("harmonic")[name]
    c, state = case["config"], case["state_dict"]
    highest = c["max_order"]
    conv = HarmonicConv2d(
        c["n_in"], c["n_out"], c["ksize"], c["padding"].lower(), max_order=highest,
        max_order_in=None if "real" in name else highest, rings=c["n_rings"], phase=c["phase"],
        zero_order_phase="code", dead_weights=True, basis="sum", **DOUBLE,
    )  # fmt: skip
    orders = range(-highest, highest + 1)
    ours = {"weight": torch.stack([state[f"W1_{m}"].double().permute(2, 1, 0) for m in orders])}
    if c["phase"]:
        ours["phase"] = torch.stack([state[f"phase1_{m}"].double()[0, 0].T for m in orders])
    conv.load_state_dict(ours)
    x = flat(case["input"])
    for module in (conv, conv.fuse()):
        close(module(x), flat(case["output"]), FLOAT_MADE)


def test_dead_weights_get_no_gradient_and_change_nothing():
    conv = HarmonicConv2d(2, 2, dead_weights=True, **DOUBLE)
    assert conv.weight.shape == (3, 2, 2, 2)
    x = torch.randn(1, 8, 5, 5, **DOUBLE)
    before = conv(x)
    before.square().sum().backward()
    for parameter in (conv.weight, conv.phase):
        assert not parameter.grad[0].any()
        assert all(part.any() for part in parameter.grad[1:])
    with torch.no_grad():
        conv.weight[0].normal_()
    assert torch.equal(conv(x), before)


def test_order_zero_phase_is_a_cosine_in_the_code_and_a_turn_in_the_paper():
    x = torch.randn(1, 2, 5, 5, **DOUBLE)
    maps = {}
    for kind in ("paper", "code"):
        conv = HarmonicConv2d(1, 1, max_order=0, max_order_in=0, zero_order_phase=kind, **DOUBLE)
        torch.manual_seed(0)
        conv.reset_parameters()
        still = HarmonicConv2d(1, 1, max_order=0, max_order_in=0, phase=False, **DOUBLE)
        still.load_state_dict({"weight": conv.weight})
        maps[kind] = as_complex(conv(x), 1)
        plain, beta = as_complex(still(x), 1), conv.phase.detach()
    close(maps["paper"], torch.exp(-1j * beta) * plain, 1e-12)
    close(maps["code"], torch.cos(beta) * plain, 1e-12)


def test_rectifier_is_the_formula_and_golden(golden):
    layer = ComplexReLU(3, **DOUBLE)
    with torch.no_grad():
        layer.bias.normal_()
    z = torch.randn(2, 12, 4, 3, **DOUBLE)
    z[0, :, 0, 0] = 1e-4  # below the floor
    values, y = as_complex(z, 2), as_complex(layer(z), 2)
    for n, o, c, r, k in itertools.product(range(2), range(2), range(3), range(4), range(3)):
        value = values[n, o, c, r, k].item()
        size = math.sqrt(max(abs(value) ** 2, 1e-4))
        expected = max(size + layer.bias[3 * o + c].item(), 0) / size * value
        assert abs(y[n, o, c, r, k].item() - expected) < 1e-12
    case = golden("harmonic")["case_nonlin"]
    layer.load_state_dict({"bias": case["state_dict"]["b1"].double().flatten()})
    close(layer(flat(case["input"])), flat(case["output"]), FLOAT_MADE)


def test_batch_norm_golden_and_fused(golden):
    case = golden("harmonic")["case_bn"]
    names = {"weight": "gamma", "bias": "beta", "running_mean": "pop_mean", "running_var": "pop_var"}
    layer = ComplexBatchNorm(3, **DOUBLE).eval()
    state = {f"norm.{ours}": case["state_dict"][f"bn1_{theirs}"].double().flatten() for ours, theirs in names.items()}
    layer.load_state_dict(state, strict=False)
    x = flat(case["input"])
    fused = layer.fuse()
    assert type(fused) is MagnitudeAffine
    close(layer(x), flat(case["output"]), FLOAT_MADE)
    close(fused(x), layer(x), 1e-12)


@pytest.mark.parametrize("leave", [False, True])
def test_batch_norm_in_training_and_fused_leaving(leave):
    torch.manual_seed(0)
    layer = ComplexBatchNorm(2, 2, leave=leave, eps=0.1, **DOUBLE)
    with torch.no_grad():
        layer.norm.weight.normal_()
        layer.norm.bias.normal_()
    z = torch.randn(3, 12, 4, 5, **DOUBLE)
    sizes = as_complex(z, 3).abs().clamp(min=0.01)
    mean, variance = sizes.mean((0, 3, 4), keepdim=True), sizes.var((0, 3, 4), correction=0, keepdim=True)
    gamma, beta = (p.view(1, 3, 2, 1, 1) for p in (layer.norm.weight, layer.norm.bias))
    rectified = (gamma * (sizes - mean) / (variance + 0.1).sqrt() + beta).relu()
    y = layer(z)
    if leave:
        close(y, rectified.sum(1), 1e-12)
    else:
        close(as_complex(y, 3), rectified / sizes * as_complex(z, 3), 1e-12)
        leaving = ComplexBatchNorm(2, 2, leave=True, eps=0.1, **DOUBLE)
        leaving.load_state_dict(layer.state_dict())
        close(leaving(z), magnitude_sum(y, 2), 1e-5)  # its floor of 1e-6 under the rectified ones
    layer.eval()
    close(layer.fuse()(z), layer(z), 1e-12)


def test_pool_and_magnitudes_golden(golden):
    case = golden("harmonic")["case_pool_sum"]
    close(magnitude_sum(HarmonicMeanPool()(flat(case["input"])), 1), flat(case["output"]), FLOAT_MADE)


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_pool_keeps_every_turn_and_mirror_and_rounds_up(stride):
    pool = HarmonicMeanPool(stride)
    for size in range(1, 11):
        x = torch.randn(1, 2, size, size, **DOUBLE)
        y = pool(x)
        assert y.shape[2:] == (-(-size // stride),) * 2
        for k in range(4):
            close(pool(torch.rot90(x, k, (2, 3))), torch.rot90(y, k, (2, 3)), 1e-14)
        close(pool(x.flip(3)), y.flip(3), 1e-14)
        if size % stride == 0:
            close(y, nn.functional.avg_pool2d(x, stride), 1e-14)
        assert torch.equal(pool(torch.ones(1, 1, size, 3)), torch.ones(1, 1, -(-size // stride), -(-3 // stride)))


@pytest.mark.parametrize("zero_order_phase", ["paper", "code"])
def test_every_layer_turns_stream_m_by_m_quarters(zero_order_phase):
    torch.manual_seed(0)
    options = {"max_order": 2, "zero_order_phase": zero_order_phase, **DOUBLE}
    layers = nn.Sequential(
        HarmonicConv2d(2, 3, max_order_in=None, **options),
        ComplexReLU(3, 2, **DOUBLE),
        HarmonicMeanPool(2),
        HarmonicConv2d(3, 3, kernel_size=3, max_order_in=2, **options),
        ComplexBatchNorm(3, 2, **DOUBLE),
    )
    x = torch.randn(2, 2, 11, 11, **DOUBLE)
    turns = torch.tensor([1, -1j, -1], dtype=torch.complex128).view(1, 3, 1, 1, 1)
    for end in range(1, len(layers) + 1):
        y = as_complex(layers[:end](x), 3)
        for k in (1, 2, 3):
            turned = as_complex(layers[:end](torch.rot90(x, k, (2, 3))), 3)
            close(turned, torch.rot90(y, k, (3, 4)) * turns**k, 1e-9)
    assert float(y.detach().abs().max()) > 0.1


def test_escnn_turns_its_streams_alike(golden):
    """Another basis of the same symmetry: its filters from a scalar to order 1 turn as ours do."""
    case = golden("harmonic")["escnn_so2_k5_first"]
    theirs = case["state_dict"]["filter"].double()
    close((case["state_dict"]["weights"].double()[:, None, None, None, None] * case["basis"]).sum(0), theirs, 1e-6)
    pairs = torch.complex(theirs[2::2], theirs[3::2])  # two scalars, then two pairs
    ours = HarmonicConv2d(1, 2, max_order=1, max_order_in=None, **DOUBLE).effective_weight().detach()
    mine = torch.complex(ours[4:6], ours[6:8])
    turn = {}
    for name, filters in (("escnn", pairs), ("ours", mine)):
        turned = torch.rot90(filters, 1, (2, 3))
        turn[name] = (filters.conj() * turned).sum() / filters.abs().square().sum()
        close(turned, turn[name] * filters, 1e-6)
    assert abs(abs(turn["escnn"]) - 1) < 1e-6
    assert min(abs(turn["escnn"] - turn["ours"]), abs(turn["escnn"] - turn["ours"].conj())) < 1e-6


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("in_channels", 0), ("out_channels", True), ("kernel_size", 1), ("max_order", -1), ("max_order_in", 1.5),
        ("rings", 0), ("phase", "no"), ("zero_order_phase", "none"), ("dead_weights", 2), ("basis", "mean"),
    ],
)  # fmt: skip
def test_bad_options_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        HarmonicConv2d(**({"in_channels": 1, "out_channels": 1} | {name: value}))


def test_other_layers_name_bad_options():
    with pytest.raises(ValueError, match="stride=0"):
        HarmonicMeanPool(0)
    with pytest.raises(ValueError, match="channels=0"):
        ComplexReLU(0)
    with pytest.raises(ValueError, match="leave='x'"):
        ComplexBatchNorm(1, leave="x")
    with pytest.raises(ValueError, match="order=-1"):
        ring_basis(3, 2, -1)


@pytest.mark.parametrize("max_order_in", [None, 0, 1])
@pytest.mark.parametrize("basis", ["unit", "sum"])
def test_profiles_and_phases_start_with_the_documented_spread(basis: str, max_order_in: int | None) -> None:
    torch.manual_seed(0)
    conv = HarmonicConv2d(24, 32, 5, max_order=1, max_order_in=max_order_in, rings=3, basis=basis)
    wanted = math.sqrt(1 / (3 * 24 * (1 if max_order_in is None else max_order_in + 1)))
    if basis == "sum":
        wanted = 0.4 * math.sqrt(2 / (3 * 24 * 32))
    assert float(conv.weight.detach().std()) == pytest.approx(wanted, rel=0.05)
    assert abs(float(conv.weight.detach().mean())) < wanted / 20
    assert conv.phase is not None
    assert 0 <= float(conv.phase.detach().min()) < 0.05
    assert 2 * math.pi - 0.05 < float(conv.phase.detach().max()) <= 2 * math.pi


def test_white_noise_keeps_its_size_at_the_start() -> None:
    torch.manual_seed(0)
    conv = HarmonicConv2d(16, 16, 5, max_order=1, max_order_in=1)
    z = torch.randn(4, 2 * 2 * 16, 24, 24)
    with torch.no_grad():
        y = conv(z)[:, :, 4:-4, 4:-4]
    assert 0.7 < float(y.std() / z.std()) < 1.4


def test_biases_of_the_complex_relu_start_within_their_bound() -> None:
    torch.manual_seed(0)
    relu = ComplexReLU(400, max_order=1)
    bound = math.sqrt(6 / (2 * 401))
    assert 0.97 * bound < float(relu.bias.detach().max()) <= bound
    assert -bound <= float(relu.bias.detach().min()) < -0.97 * bound
