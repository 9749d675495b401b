"""Constant kernels against the paper's formulas, the authors' tensors, and what may never happen to a constant."""

import math

import pytest
import torch
from torch import nn

from convswap.units import FixedConv2d
from convswap.units.vgnet import banks as fixed_banks

S, T = 1 / 12, 1 / 6
EDGES = [
    [[-0.5, -1, -0.5], [0, 0, 0], [0.5, 1, 0.5]],
    [[-0.5, 0, 0.5], [-1, 0, 1], [-0.5, 0, 0.5]],
    [[-S, -T, -S], [-T, 1, -T], [-S, -T, -S]],
    [[0, -0.25, 0], [-0.25, 1, -0.25], [0, -0.25, 0]],
]
EMBOSS = [
    [[-1, -2 / 3, -1 / 3], [-2 / 3, 0, 2 / 3], [1 / 3, 2 / 3, 1]],
    [[-1 / 3, -2 / 3, -1], [2 / 3, 0, -2 / 3], [1, 2 / 3, 1 / 3]],
]


def blur(sigma, size=3):
    """Rows of a normalised Gaussian, point by point."""
    r = size // 2
    rows = [[math.exp(-(x * x + y * y) / (2 * sigma**2)) for x in range(-r, r + 1)] for y in range(-r, r + 1)]
    total = sum(map(sum, rows))
    return [[value / total for value in row] for row in rows]


def rounded(kernel):
    """The authors wrote their later Gaussians down to four decimals."""
    return [[round(value, 4) for value in row] for row in kernel]


def negated(kernel):
    return [[-value for value in row] for row in kernel]


BANKS = {
    "gaussian": [blur(1.0)],
    "gaussian_signed": [rounded(blur(1.1)), negated(rounded(blur(1.1)))],
    "edge": EDGES,
    "edge_gaussian": [*EDGES, *EMBOSS, rounded(blur(1.1)), rounded(blur(0.6))],
}


def naive(x, kernels, factors, bias, stride):
    """`y[n, c, i, j] = factors[c] * sum k[c mod n][a][b] x[.., s i + a - r, s j + b - r] + bias[c]`, zeros outside."""
    n, channels, height, width = x.shape
    size = len(kernels[0])
    r = size // 2
    y = torch.zeros(n, channels, -(-height // stride), -(-width // stride), dtype=x.dtype)
    for index in torch.cartesian_prod(*(torch.arange(d) for d in y.shape)).tolist():
        b, c, i, j = index
        kernel = kernels[c % len(kernels)]
        total = 0.0
        for u in range(size):
            for v in range(size):
                row, column = stride * i + u - r, stride * j + v - r
                if 0 <= row < height and 0 <= column < width:
                    total += kernel[u][v] * float(x[b, c, row, column])
        y[b, c, i, j] = float(factors[c]) * total + float(bias[c])
    return y


@pytest.mark.parametrize("scale", ["none", "learnable"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("bank", BANKS)
def test_forward_is_the_formula_for_any_number_of_channels(bank, stride, scale):
    torch.manual_seed(0)
    channels = 11  # no bank divides it
    unit = FixedConv2d(channels, channels, 3, stride, 1, groups=channels, bank=bank, scale=scale, dtype=torch.float64)
    factors = torch.ones(channels)
    if scale == "learnable":
        factors = torch.randn(channels, dtype=torch.float64)
        with torch.no_grad():
            unit.channel_scale.copy_(factors)
    x = torch.randn(1, channels, 5, 6, dtype=torch.float64)
    expected = naive(x, BANKS[bank], factors, unit.bias.detach(), stride)
    for module in (unit, unit.fuse()):
        torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-12)


def test_auto_blurs_where_it_strides_and_finds_edges_elsewhere():
    strided = FixedConv2d(8, 8, 3, 2, 1, groups=8, dtype=torch.float64)
    torch.testing.assert_close(strided.weight[5, 0], torch.tensor(blur(1.0), dtype=torch.float64))
    plain = FixedConv2d(8, 8, 3, 1, 1, groups=8, dtype=torch.float64)
    torch.testing.assert_close(plain.weight[:, 0], torch.tensor(BANKS["edge_gaussian"], dtype=torch.float64))
    own = FixedConv2d(4, 4, 3, (1, 2), 1, groups=4, sigma=2.0, dtype=torch.float64)
    torch.testing.assert_close(own.weight[3, 0], torch.tensor(blur(2.0), dtype=torch.float64))
    unused = FixedConv2d(8, 8, 3, 1, 1, groups=8, sigma=2.0, dtype=torch.float64)
    assert torch.equal(unused.weight, plain.weight)


def test_larger_and_oblong_gaussians_and_channel_multipliers():
    unit = FixedConv2d(3, 6, 5, padding=2, groups=3, bank="gaussian_signed", sigma=1.5, dtype=torch.float64)
    torch.testing.assert_close(unit.weight[4, 0], torch.tensor(blur(1.5, 5), dtype=torch.float64))
    torch.testing.assert_close(unit.weight[1], -unit.weight[0])
    oblong = FixedConv2d(2, 2, (1, 3), groups=2, bank="gaussian").weight
    assert oblong.shape == (2, 1, 1, 3)
    torch.testing.assert_close(oblong.sum((1, 2, 3)), torch.ones(2))


def test_published_values_and_sums_of_the_banks():
    assert rounded(blur(1.1)) == [[0.0811, 0.1226, 0.0811], [0.1226, 0.1853, 0.1226], [0.0811, 0.1226, 0.0811]]
    exact = fixed_banks.kernels("gaussian_signed", (3, 3), 1.1)[0]
    torch.testing.assert_close(exact, torch.tensor(blur(1.1), dtype=torch.float64))
    stack = fixed_banks.kernels("edge_gaussian", (3, 3))
    torch.testing.assert_close(stack.sum((1, 2)), torch.tensor([0.0] * 6 + [1.0001, 1], dtype=torch.float64))
    torch.testing.assert_close(stack[5], stack[4].flip(1))
    torch.testing.assert_close(stack[1], stack[0].T)
    assert len(fixed_banks.kernels("edge", (3, 3))) == 4


@pytest.mark.parametrize(
    ("case", "options", "stride"),
    [
        ("case_edge4_8", {"bank": "edge"}, 1),
        ("case_gaussian_sigma1_s2", {"bank": "gaussian"}, 2),
        ("case_gaussian_signed_8_s2", {"bank": "gaussian_signed"}, 2),
    ],
)
def test_golden(golden, case, options, stride):
    reference = golden("vgnet")[case]
    channels = reference["input"].shape[1]
    place = {"groups": channels, "bias": False, "dtype": torch.float64}
    unit = FixedConv2d(channels, channels, 3, stride, 1, **place, **options)
    kept = unit.weight.clone()
    unit.load_state_dict(reference["state_dict"], strict=True)
    assert torch.equal(unit.weight, kept), "the exact constants give way to rounded ones"
    # The reference formed its constants in float32.
    torch.testing.assert_close(unit.weight, reference["state_dict"]["weight"], rtol=0, atol=1e-6)
    torch.testing.assert_close(unit(reference["input"]), reference["output"], rtol=0, atol=1e-6)
    stored = nn.functional.conv2d(
        reference["input"], reference["state_dict"]["weight"], None, stride, 1, groups=channels
    )
    torch.testing.assert_close(stored, reference["output"], rtol=0, atol=1e-12)


def test_the_kernels_never_train():
    unit = FixedConv2d(8, 8, 3, padding=1, groups=8, bias=False)
    assert list(unit.parameters()) == []
    assert [name for name, _ in unit.named_buffers()] == ["weight"]
    assert set(unit.state_dict()) == {"weight", "_extra_state"}
    unit.requires_grad_(True)
    assert not unit.weight.requires_grad
    assert not unit.fuse().weight.requires_grad
    scaled = FixedConv2d(8, 8, 3, padding=1, groups=8, scale="learnable")
    assert {name for name, _ in scaled.named_parameters()} == {"bias", "channel_scale"}
    assert all(p.requires_grad for p in scaled.fuse().parameters())
    biased = FixedConv2d(8, 8, 3, padding=1, groups=8).fuse()
    assert biased.bias.requires_grad
    assert not biased.weight.requires_grad


def test_the_kernels_survive_casts_moves_resets_and_loading():
    unit = FixedConv2d(8, 8, 3, 2, 1, groups=8, bias=False, dtype=torch.float64)
    exact = unit.weight.clone()
    unit.to(torch.bfloat16)
    assert unit.weight.dtype == torch.bfloat16
    rounded = {name: value.clone() for name, value in unit.state_dict().items()}
    assert torch.equal(unit.double().weight, exact)
    unit.reset_parameters()
    assert torch.equal(unit.weight, exact)
    born = FixedConv2d(8, 8, 3, 2, 1, groups=8, bias=False, device="meta")
    born.load_state_dict({"weight": exact.clone()}, assign=True)
    assert torch.equal(born.weight, exact)
    twin = FixedConv2d(8, 8, 3, 2, 1, groups=8, bias=False, dtype=torch.float64)
    twin.load_state_dict(rounded)
    assert torch.equal(twin.weight, exact)
    emptied = FixedConv2d(8, 8, 3, 2, 1, groups=8, bias=False, device="meta").to_empty(device="cpu")
    assert torch.equal(emptied.weight, exact.float())


@pytest.mark.parametrize("strict", [True, False])
def test_other_kernels_are_refused_and_not_kept(strict):
    unit = FixedConv2d(8, 8, 3, padding=1, groups=8)
    exact = unit.weight.clone()
    plain = nn.Conv2d(8, 8, 3, padding=1, groups=8).state_dict()
    damaged = unit.state_dict() | {"weight": exact + 1}
    for state in (plain, damaged):
        with pytest.raises(RuntimeError, match=r"weight holds other kernels than bank='auto'.*before the swap"):
            unit.load_state_dict(state, strict=strict)
        assert torch.equal(unit.weight, exact)
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        unit.load_state_dict({"weight": torch.zeros(4, 1, 3, 3), "bias": plain["bias"]})


def test_the_state_of_another_bank_is_refused():
    unit = FixedConv2d(8, 8, 3, padding=1, groups=8)
    other = FixedConv2d(8, 8, 3, padding=1, groups=8, bank="gaussian").state_dict()
    with pytest.raises(RuntimeError, match=r"is of fixed\(bank='gaussian'\), but this is fixed\(bank='auto'\)"):
        unit.load_state_dict(other)
    with pytest.warns(UserWarning, match="but this is fixed"):
        missing, _ = unit.load_state_dict(other, strict=False)
    assert missing == ["weight", "bias"] or missing == ["bias", "weight"]


def test_a_scale_stays_where_the_given_state_has_none():
    scaled = FixedConv2d(4, 4, 3, groups=4, scale="learnable")
    with torch.no_grad():
        scaled.channel_scale.fill_(2.0)
    authors = dict(FixedConv2d(4, 4, 3, groups=4).state_dict())
    del authors["_extra_state"]
    scaled.load_state_dict(authors)
    assert scaled.channel_scale.eq(2).all()


def test_starts_keep_the_bias_and_drop_the_kernels():
    conv = nn.Conv2d(4, 4, 3, groups=4)
    for build in (FixedConv2d.from_conv, FixedConv2d.fresh_like):
        unit = build(conv)
        assert torch.equal(unit.bias, conv.bias)
        assert torch.equal(unit.weight, FixedConv2d(4, 4, 3, groups=4).weight)
    frozen = FixedConv2d.from_conv(conv.requires_grad_(False), scale="learnable")
    assert not any(p.requires_grad for p in frozen.parameters())


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((4, 4, 3), {"groups": 4, "bank": "sobel"}, "bank='sobel'.*'edge_gaussian'"),
        ((4, 4, 3), {"groups": 4, "scale": True}, "scale=True.*'none', 'learnable'"),
        ((4, 4, 3), {"groups": 4, "sigma": 0}, "sigma=0.*positive"),
        ((4, 4, 3), {"groups": 4, "sigma": math.inf}, "sigma=inf.*positive"),
        ((4, 4, 3), {"groups": 4, "sigma": True}, "sigma=True"),
        ((4, 4, 3), {"groups": 4, "sigma": 1.0, "bank": "edge"}, "sigma=1.0.*bank='edge'"),
        ((4, 4, 3), {"groups": 2}, "groups=2 must be in_channels=4"),
        ((4, 4, 3), {}, "groups=1 must be in_channels=4"),
        ((4, 4, 5), {"groups": 4}, "3x3, not 5x5; bank='gaussian'"),
        ((4, 4, 4), {"groups": 4, "bank": "gaussian"}, "odd kernel, not 4x4"),
        ((4, 4, 1), {"groups": 4, "bank": "gaussian"}, "1x1 Gaussian is the identity"),
    ],
)
def test_what_is_not_allowed_is_named(arguments, options, words):
    with pytest.raises(ValueError, match=words):
        FixedConv2d(*arguments, **options)


def test_the_narrowest_gaussian_is_the_identity():
    unit = FixedConv2d(2, 2, 3, padding=1, groups=2, bank="gaussian", sigma=1e-200, dtype=torch.float64)
    expected = torch.zeros(2, 1, 3, 3, dtype=torch.float64)
    expected[:, :, 1, 1] = 1
    assert torch.equal(unit.weight, expected)
