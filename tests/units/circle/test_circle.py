"""The circle unit against a naive loop, the golden tensors and the facts known about its matrix."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from convswap.errors import UsageError
from convswap.units import CircleConv2d
from convswap.units.circle.geometry import corner_polynomial, matrix_at, sampling_matrix

GOLDEN = Path(__file__).parents[2] / "golden" / "circle"
OFFICIAL = {
    "CircleConv3x3": {"angles": "arctan", "ring": "floor"},
    "CircleConv5x5": {"angles": "arctan", "ring": "floor"},
    "CircleConv7x7": {"angles": "arctan", "ring": "floor"},
    "CircleConv7x7_original": {"angles": "even", "ring": "floor"},
}


def golden(name: str) -> dict:
    return torch.load(GOLDEN / f"{name}.pt", weights_only=True)


def naive_matrix(size: int, angles: str, ring: str, factor: float = 1.0) -> torch.Tensor:
    """T by the definition: the position of each point, then bilinear reading of the four pixels around it."""
    centre = size // 2
    matrix = torch.zeros(size * size, size * size, dtype=torch.float64)
    for index in range(size * size):
        gx, gy = index % size - centre, centre - index // size  # right and up
        if gx == 0 or gy == 0:
            matrix[index, index] = 1
            continue
        radius = max(abs(gx), abs(gy)) if ring == "max" else math.floor(math.sqrt(gx * gx + gy * gy))
        if angles == "arctan":
            angle = math.atan(abs(gy) / abs(gx))
        elif abs(gx) >= abs(gy):
            angle = math.pi / 4 * abs(gy) / abs(gx)
        else:
            angle = math.pi / 2 - math.pi / 4 * abs(gx) / abs(gy)
        px = math.copysign(min(factor * radius * math.cos(angle), centre), gx)
        py = math.copysign(min(factor * radius * math.sin(angle), centre), gy)
        x0, y0 = math.floor(px), math.floor(py)
        for x, y, share in (
            (x0, y0, (1 - (px - x0)) * (1 - (py - y0))),
            (x0 + 1, y0, (px - x0) * (1 - (py - y0))),
            (x0, y0 + 1, (1 - (px - x0)) * (py - y0)),
            (x0 + 1, y0 + 1, (px - x0) * (py - y0)),
        ):
            if share:
                matrix[index, (centre - y) * size + (x + centre)] += share
    return matrix


def naive_circle(x, weight, bias, matrix, stride: int, padding: int, dilation: int, groups: int):
    """Every output pixel as the sum over the kernel's points of weight times the pixels the point reads."""
    images, channels, height, width = x.shape
    out, per_group, size, _ = weight.shape
    padded = torch.zeros(images, channels, height + 2 * padding, width + 2 * padding, dtype=x.dtype)
    padded[:, :, padding : padding + height, padding : padding + width] = x
    rows = (height + 2 * padding - dilation * (size - 1) - 1) // stride + 1
    columns = (width + 2 * padding - dilation * (size - 1) - 1) // stride + 1
    y = torch.zeros(images, out, rows, columns, dtype=x.dtype)
    for n in range(images):
        for o in range(out):
            first = o // (out // groups) * per_group
            for r in range(rows):
                for c in range(columns):
                    total = bias[o]
                    for i in range(per_group):
                        window = padded[n, first + i, r * stride :, c * stride :]
                        window = window[: dilation * size : dilation, : dilation * size : dilation]
                        readings = matrix @ window.reshape(-1)
                        total = total + torch.dot(weight[o, i].reshape(-1), readings)
                    y[n, o, r, c] = total
    return y


@pytest.mark.parametrize("ring", ["max", "floor"])
@pytest.mark.parametrize("angles", ["even", "arctan"])
@pytest.mark.parametrize("size", [3, 5, 7, 9, 11, 13])
def test_matrix_is_the_definition(size, angles, ring):
    for factor in (1.0, 0.6, 1.3, math.sqrt(2)):
        matrix = sampling_matrix(size, angles, ring, factor)
        torch.testing.assert_close(matrix, naive_matrix(size, angles, ring, factor), rtol=0, atol=1e-12)
        torch.testing.assert_close(matrix.sum(1), torch.ones(size * size, dtype=torch.float64))


def test_golden_matrices():
    for name, matrix in golden("matrices").items():
        if name.startswith("mix"):
            continue
        size, angles, rule = name[1:].split("_")
        ring = "floor" if rule == "officialfloor" else "max"
        ours = sampling_matrix(int(size), "even" if angles == "equal" else angles, ring)
        torch.testing.assert_close(ours, matrix, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("size", "angles", "ring", "rank", "condition", "variance", "corner"),
    [
        (3, "even", "max", 9, 2.50, 0.708, 0.5),
        (5, "arctan", "max", 25, 8.08, 0.630, 0.1716),
        (5, "even", "max", 25, 8.55, 0.609, 0.1716),
        (7, "arctan", "max", 49, 317, 0.608, 0.0147),
        (7, "even", "max", 49, 377, 0.573, 0.0147),
        (7, "arctan", "floor", 49, 14.6, 0.599, 0.6863),
        (7, "even", "floor", 49, 12.2, 0.564, 0.6863),
        (9, "arctan", "max", 77, None, 0.585, 0.0),
        (9, "even", "max", 77, None, 0.542, 0.0),
        (11, "even", "max", 109, None, None, 0.0),
        (13, "even", "max", 149, None, None, 0.0),
        (15, "even", "max", 201, None, None, 0.0),
    ],
)
def test_known_facts_of_the_matrix(size, angles, ring, rank, condition, variance, corner):
    matrix = sampling_matrix(size, angles, ring)
    assert torch.linalg.matrix_rank(matrix) == rank
    if condition is not None:
        assert torch.linalg.cond(matrix).item() == pytest.approx(condition, rel=5e-3)
    if variance is not None:
        assert matrix.square().sum().item() / size**2 == pytest.approx(variance, abs=5e-4)
    assert matrix.sum(0)[0].item() == pytest.approx(corner, abs=1e-4)


def test_eigenvalues_and_inverse_of_the_smallest_circle():
    matrix = sampling_matrix(3)
    eigenvalues = torch.linalg.eigvals(matrix).real.sort().values
    torch.testing.assert_close(eigenvalues, torch.tensor([0.5] * 4 + [1.0] * 5, dtype=torch.float64))
    assert torch.linalg.det(matrix).item() == pytest.approx(1 / 16)
    assert torch.linalg.matrix_norm(matrix, 2).item() == pytest.approx(1.1186, abs=1e-4)
    row = torch.linalg.inv(matrix)[0]
    assert row[[0, 1, 3, 4]].tolist() == pytest.approx([2, -0.41421356, -0.41421356, -0.17157288])


@pytest.mark.parametrize("radius", [0.0, math.sqrt(0.5), 1.0, (1 + math.sqrt(2)) / 2, math.sqrt(2)])
def test_closed_form_of_the_smallest_circle(radius):
    weight = torch.randn(3, 3, dtype=torch.float64)
    a = radius / math.sqrt(2)
    expected = weight.clone()
    for y, x in ((0, 0), (0, 2), (2, 0), (2, 2)):
        expected[y, x] = a * a * weight[y, x]
        expected[1, x] += a * (1 - a) * weight[y, x]
        expected[y, 1] += a * (1 - a) * weight[y, x]
        expected[1, 1] += (1 - a) ** 2 * weight[y, x]
    unit = CircleConv2d(1, 1, 3, radius=radius, dtype=torch.float64)
    with torch.no_grad():
        unit.weight.copy_(weight)
    torch.testing.assert_close(unit.effective_weight()[0, 0], expected)
    polynomial = (torch.tensor([1, a, a * a], dtype=torch.float64) @ corner_polynomial().flatten(1)).reshape(9, 9)
    torch.testing.assert_close(polynomial, sampling_matrix(3, factor=radius))


@pytest.mark.parametrize(
    ("size", "stride", "padding", "dilation", "groups", "options"),
    [
        (3, 1, 1, 1, 1, {}),
        (3, 2, 0, 1, 2, {"radius": 0.7}),
        (5, 1, 4, 2, 4, {"angles": "arctan"}),
        (7, 2, 3, 1, 1, {"ring": "floor"}),
        (9, 1, 4, 1, 2, {"radius": 1.3}),
    ],
)
def test_forward_is_the_naive_sum(size, stride, padding, dilation, groups, options):
    torch.manual_seed(0)
    unit = CircleConv2d(4, 4, size, stride, padding, dilation, groups, dtype=torch.float64, **options)
    x = torch.randn(1, 4, 6, 9, dtype=torch.float64)
    matrix = naive_matrix(size, options.get("angles", "even"), options.get("ring", "max"), options.get("radius", 1.0))
    expected = naive_circle(x, unit.weight, unit.bias, matrix, stride, padding, dilation, groups)
    torch.testing.assert_close(unit(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [path.stem for path in sorted(GOLDEN.glob("case_circle*.pt"))])
def test_golden_outputs_and_gradients(name):
    case = golden(name)
    config = dict(case["config"])
    options = OFFICIAL[config.pop("cls")]
    unit = CircleConv2d(**config, **options, dtype=torch.float64)
    unit.load_state_dict(case["state_dict"])  # strict: the official matrix is recognised
    x = case["input"].requires_grad_()
    y = unit(x)
    (y * case["grad_out"]).sum().backward()
    close = {"rtol": 0.0, "atol": 1e-6}  # the official matrix is float32-rounded
    torch.testing.assert_close(y, case["output"], **close)
    torch.testing.assert_close(unit.effective_weight(), case["equivalent_weight"], **close)
    torch.testing.assert_close(unit.weight.grad, case["grad_weight"], **close)
    torch.testing.assert_close(x.grad, case["grad_input"], **close)


@pytest.mark.parametrize("name", ["case_block_sep_circle5", "case_block_dil_circle5_s2"])
def test_golden_search_operations(name):
    case = golden(name)
    channels, stride = case["config"]["C"], case["config"]["stride"]
    options = {"bias": False, "angles": "arctan", "groups": channels}

    def half(step: int, padding: int, dilation: int = 1) -> list[nn.Module]:
        circle = CircleConv2d(channels, channels, 5, step, padding, dilation, **options)
        return [nn.ReLU(), circle, nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels)]

    parts = half(stride, 2) + half(1, 2) if "sep" in name else half(stride, 4, 2)
    operation = nn.Sequential(*parts).double().eval()
    operation.load_state_dict({key.removeprefix("op."): value for key, value in case["state_dict"].items()})
    torch.testing.assert_close(operation(case["input"]), case["output"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"angles": "arctan"}, {"ring": "floor"}, {"radius": "learnable"}])
@pytest.mark.parametrize("size", [3, 5, 7])
def test_starts_exactly_from_a_convolution(size, options):
    conv = nn.Conv2d(4, 6, size, 2, 1, groups=2, padding_mode="reflect", dtype=torch.float64)
    x = torch.randn(2, 4, 9, 11, dtype=torch.float64)
    assert CircleConv2d.warm_start_for(conv, **options) == "exact"
    torch.testing.assert_close(CircleConv2d.from_conv(conv, **options)(x), conv(x), rtol=1e-11, atol=1e-11)


def test_starts_from_a_convolution_at_a_trained_radius():
    conv = nn.Conv2d(2, 3, 5, padding=2, dtype=torch.float64)
    unit = CircleConv2d(2, 3, 5, padding=2, radius="learnable", dtype=torch.float64)
    with torch.no_grad():
        unit.radius_logit.copy_(torch.tensor([0.2, 1.7]))
        unit.start_from(conv)
    torch.testing.assert_close(unit.effective_weight(), conv.weight, rtol=0, atol=1e-11)


def test_large_kernels_start_at_the_nearest_circle():
    conv = nn.Conv2d(2, 3, 9, padding=4, dtype=torch.float64)
    unit = CircleConv2d.from_conv(conv)
    assert CircleConv2d.warm_start_for(conv) == "approximate"
    matrix = sampling_matrix(9)
    residual = (conv.weight - unit.effective_weight()).detach().reshape(-1, 81)
    torch.testing.assert_close(residual @ matrix.T, torch.zeros_like(residual), rtol=0, atol=1e-10)
    assert 0 < residual.norm() / conv.weight.norm() < 0.4
    assert unit.effective_weight()[..., 0, 0].abs().max() == 0  # corner pixels are never read
    assert CircleConv2d.warm_start_for(conv, angles="even", ring="max", radius="learnable") == "approximate"
    assert CircleConv2d.warm_start_for(nn.Conv2d(2, 3, 3), radius=0.0) == "approximate"


@pytest.mark.parametrize("size", [3, 5, 7])
def test_learnable_radius_has_a_smooth_gradient(size):
    torch.manual_seed(1)
    unit = CircleConv2d(1, 2, size, padding=1, radius="learnable", dtype=torch.float64)
    assert unit.radius_logit.shape == (size // 2,)
    torch.testing.assert_close(unit.sampling_matrix(), sampling_matrix(size), rtol=0, atol=1e-12)
    x = torch.randn(1, 1, 8, 8, dtype=torch.float64)

    def forward(weight, logit):
        return torch.func.functional_call(unit, {"weight": weight, "radius_logit": logit}, (x,))

    for logit in (unit.radius_logit.detach(), torch.linspace(-0.7, 2.1, size // 2, dtype=torch.float64)):
        assert torch.autograd.gradcheck(forward, (unit.weight, logit.clone().requires_grad_()))
    unit(x).square().sum().backward()
    assert (unit.radius_logit.grad.abs() > 1e-8).all()


def test_learnable_radius_stays_inside_its_range_and_leaves_the_window_alone():
    unit = CircleConv2d(1, 1, 5, radius="learnable", dtype=torch.float64)
    with torch.no_grad():
        unit.radius_logit.fill_(1e3)
    matrix = unit.sampling_matrix()
    torch.testing.assert_close(matrix.sum(1), torch.ones(25, dtype=torch.float64))
    torch.testing.assert_close(matrix, sampling_matrix(5, factor=math.sqrt(2)))
    torch.testing.assert_close(
        matrix_at(torch.tensor([0.5, 1.1], dtype=torch.float64), 5, "even", "max").sum(1),
        torch.ones(25, dtype=torch.float64),
    )


def test_fuse_is_a_plain_convolution_and_leaves_the_unit_alone():
    for radius in (1.0, "learnable"):
        unit = CircleConv2d(4, 6, 5, padding=2, radius=radius).eval()
        before = copy.deepcopy(unit.state_dict())
        fused = unit.fuse()
        assert type(fused) is nn.Conv2d
        x = torch.randn(2, 4, 7, 8)
        torch.testing.assert_close(fused(x), unit(x), rtol=1e-5, atol=1e-6)
        assert all(torch.equal(before[key], value) for key, value in unit.state_dict().items())


def test_channels_last_weights_and_half_precision_keep_the_constants_exact():
    unit = CircleConv2d(4, 6, 3, padding=1).to(memory_format=torch.channels_last)
    x = torch.randn(2, 4, 6, 6).contiguous(memory_format=torch.channels_last)
    assert unit(x).is_contiguous(memory_format=torch.channels_last)
    assert unit.effective_weight().is_contiguous(memory_format=torch.channels_last)
    as_rows = (unit.weight.reshape(-1, 9) @ unit.matrix).reshape(unit.weight.shape)
    torch.testing.assert_close(unit.effective_weight(), as_rows)
    unit.half().double()
    torch.testing.assert_close(unit.matrix, sampling_matrix(3), rtol=0, atol=0)


def test_built_on_the_meta_device_first():
    with torch.device("meta"):
        unit = CircleConv2d(3, 4, 13, radius=0.9)
    assert unit.weight.is_meta
    plain = nn.Conv2d(3, 4, 13)
    unit.load_state_dict(plain.state_dict(), assign=True)
    torch.testing.assert_close(unit.matrix.double(), sampling_matrix(13, factor=0.9), rtol=0, atol=1e-7)
    with torch.device("meta"):
        learnable = CircleConv2d(3, 4, 5, radius="learnable")
    learnable.load_state_dict(nn.Conv2d(3, 4, 5).state_dict(), assign=True)
    torch.testing.assert_close(learnable.ring_factors(), torch.ones(2))


def test_a_checkpoint_of_another_circle_is_refused():
    case = golden("case_circle7_official_corner_r4")
    unit = CircleConv2d(3, 4, 7, padding=3, bias=False, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="another circle"):
        unit.load_state_dict(case["state_dict"])


def test_weights_start_as_those_of_a_convolution():
    torch.manual_seed(3)
    plain = nn.Conv2d(3, 4, 5)
    torch.manual_seed(3)
    unit = CircleConv2d(3, 4, 5)
    assert torch.equal(unit.weight, plain.weight)
    assert torch.equal(unit.bias, plain.bias)
    assert torch.equal(CircleConv2d.fresh_like(plain).weight, plain.weight)


def test_dc_response_is_kept():
    unit = CircleConv2d(2, 3, 7, dtype=torch.float64)
    torch.testing.assert_close(unit.effective_weight().sum((2, 3)), unit.weight.sum((2, 3)))


@pytest.mark.parametrize(
    ("kernel", "options", "words"),
    [
        (1, {}, "no ring"),
        (4, {}, "odd"),
        ((3, 5), {}, "square"),
        (3, {"angles": "equal"}, "angles='equal'"),
        (3, {"ring": "round"}, "ring='round'"),
        (3, {"radius": -0.1}, "radius=-0.1"),
        (3, {"radius": 2.0}, "radius=2.0"),
        (3, {"radius": "free"}, "radius='free'"),
        (3, {"radius": True}, "radius=True"),
    ],
)
def test_bad_arguments_are_named(kernel, options, words):
    with pytest.raises(ValueError, match=words):
        CircleConv2d(2, 2, kernel, **options)


def test_unsupported_places_say_why():
    assert CircleConv2d.supports(nn.Conv2d(2, 2, 3)) is None
    assert "1x1" in (CircleConv2d.supports(nn.Conv2d(2, 2, 1)) or "")
    with pytest.raises(UsageError, match="2x2"):
        CircleConv2d.from_conv(nn.Conv2d(2, 2, 2))


def test_frozen_convolutions_stay_frozen():
    conv = nn.Conv2d(2, 2, 3)
    conv.requires_grad_(False)
    assert not any(p.requires_grad for p in CircleConv2d.from_conv(conv, radius="learnable").parameters())


def test_effective_weight_under_autocast_is_formed_in_float32():
    unit = CircleConv2d(4, 4, 7, padding=3)
    x = torch.randn(1, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = unit(x)
    exact = conv2d(x.bfloat16(), unit.effective_weight().bfloat16(), unit.bias.bfloat16(), padding=3)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, exact)


@pytest.mark.parametrize("size", [3, 5])
def test_reset_returns_a_trained_radius_to_the_circle(size):
    unit = CircleConv2d(2, 3, size, radius="learnable")
    before = unit.weight.detach().clone()
    with torch.no_grad():
        unit.radius_logit.add_(0.7)
    assert (unit.ring_factors() > 1.1).all()
    unit.reset_parameters()
    torch.testing.assert_close(unit.ring_factors(), torch.ones_like(unit.radius_logit))
    assert not torch.equal(unit.weight, before)
