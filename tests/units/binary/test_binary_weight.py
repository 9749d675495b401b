"""Binary weights: the formula and its three gradients against loops, the golden network, clipping and centring."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import convswap
from convswap.ops.signs import signs
from convswap.units import BinaryWeightConv2d

DOUBLE = torch.float64


def naive_weight(weight: torch.Tensor) -> torch.Tensor:
    """One scale per filter times signs, number by number."""
    result = torch.empty_like(weight)
    for o in range(weight.shape[0]):
        numbers = weight[o].flatten().tolist()
        alpha = sum(abs(number) for number in numbers) / len(numbers)
        result[o] = torch.tensor([alpha if number >= 0 else -alpha for number in numbers], dtype=DOUBLE).view_as(
            weight[o]
        )
    return result


def naive_gradient(weight: torch.Tensor, g: torch.Tensor, form: str) -> torch.Tensor:
    """The gradient with respect to the real weights from the one with respect to the binary ones, as in the note."""
    result = torch.empty_like(weight)
    channels = weight.shape[1]
    for o in range(weight.shape[0]):
        w, up = weight[o].flatten().tolist(), g[o].flatten().tolist()
        n = len(w)
        alpha = sum(map(abs, w)) / n
        coupling = sum(u * (1 if v >= 0 else -1) for u, v in zip(up, w, strict=True)) / n
        numbers = []
        for v, u in zip(w, up, strict=True):
            if form == "printed":
                numbers.append(u * (1 / n + (alpha if abs(v) < 1 else 0)))
                continue
            number = (alpha * u if abs(v) <= 1 else 0) + (1 if v >= 0 else -1) * coupling
            numbers.append(number * (1 - 1 / channels) * n if form == "program" else number)
        result[o] = torch.tensor(numbers, dtype=weight.dtype).view_as(weight[o])
    return result


def drawn_weight() -> torch.Tensor:
    """Numbers inside and outside of [-1, 1], an exact zero and an exact one."""
    torch.manual_seed(0)
    weight = torch.randn(5, 3, 3, 2, dtype=DOUBLE)
    weight[0, 0, 0, 0], weight[1, 0, 0, 0] = 0.0, 1.0
    return weight


def test_effective_weight_is_the_mean_magnitude_times_the_sign():
    unit = BinaryWeightConv2d(3, 5, (3, 2), dtype=DOUBLE)
    with torch.no_grad():
        unit.weight.copy_(drawn_weight())
    torch.testing.assert_close(unit.effective_weight(), naive_weight(unit.weight.detach()), rtol=0, atol=1e-12)


def test_no_other_scale_or_sign_is_nearer():
    weight = drawn_weight()
    unit = BinaryWeightConv2d(3, 5, (3, 2), dtype=DOUBLE)
    with torch.no_grad():
        unit.weight.copy_(weight)
        best = (weight - unit.effective_weight()).square().sum((1, 2, 3))
        for factor in (0.98, 1.02):
            other = (weight - factor * unit.effective_weight()).square().sum((1, 2, 3))
            assert (other > best).all()
        for _ in range(50):
            sign = torch.randn_like(weight).sign()
            alpha = (weight * sign).mean((1, 2, 3), keepdim=True)  # the best scale of these signs
            assert ((weight - alpha * sign).square().sum((1, 2, 3)) >= best).all()


@pytest.mark.parametrize("form", ["chain", "printed", "program"])
def test_gradient_is_the_formula(form):
    unit = BinaryWeightConv2d(3, 5, (3, 2), gradient=form, dtype=DOUBLE)
    weight = drawn_weight()
    with torch.no_grad():
        unit.weight.copy_(weight)
    g = torch.randn(weight.shape, dtype=DOUBLE)
    (unit.effective_weight() * g).sum().backward()
    torch.testing.assert_close(unit.weight.grad, naive_gradient(weight, g, form), rtol=0, atol=1e-12)


def test_chain_is_the_derivative_where_the_sign_is_replaced_by_its_line():
    """`mean|W| * line(W)` with line' = 1 inside: autograd's own chain rule gives the default gradient."""
    weight = drawn_weight()
    weight[1, 0, 0, 0] = 0.9  # at exactly 1 the slope of a clamp is a convention
    weight.requires_grad_()
    clipped = weight.clamp(-1, 1)
    straight = clipped + (signs(weight) - clipped).detach()
    magnitude = (weight * signs(weight).detach()).mean((1, 2, 3), keepdim=True)
    g = torch.randn(weight.shape, dtype=DOUBLE)
    (magnitude * straight * g).sum().backward()
    torch.testing.assert_close(weight.grad, naive_gradient(weight.detach(), g, "chain"), rtol=0, atol=1e-12)


def test_gradient_of_a_depthwise_filter_keeps_no_centring_factor():
    unit = BinaryWeightConv2d(4, 4, 3, groups=4, gradient="program", dtype=DOUBLE)
    (unit.effective_weight() * torch.randn_like(unit.weight)).sum().backward()
    assert (unit.weight.grad.abs() > 0).any()


def test_constrain_centres_every_tap_and_clips():
    unit = BinaryWeightConv2d(6, 4, 3, groups=2, dtype=DOUBLE)
    with torch.no_grad():
        unit.weight.normal_(std=2).add_(0.5)
    before = unit.weight.detach().clone()
    unit.constrain_()
    torch.testing.assert_close(unit.weight.detach(), (before - before.mean(1, keepdim=True)).clamp(-1, 1))
    assert unit.weight.requires_grad
    assert unit.weight.grad_fn is None


@pytest.mark.parametrize(("groups", "options"), [(4, {}), (1, {"center": False})])
def test_constrain_only_clips_depthwise_filters_or_if_told(groups, options):
    unit = BinaryWeightConv2d(4, 4, 3, groups=groups, dtype=DOUBLE, **options)
    with torch.no_grad():
        unit.weight.normal_(std=2)
    before = unit.weight.detach().clone()
    unit.constrain_()
    assert torch.equal(unit.weight, before.clamp(-1, 1))


def test_what_a_warm_start_keeps_is_read_off_the_weights():
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 8, 3)
    nn.init.normal_(conv.weight)
    assert BinaryWeightConv2d.warm_start_for(conv) == "approximate"
    x = torch.randn(4, 8, 12, 12)
    pair = torch.stack([BinaryWeightConv2d.from_conv(conv)(x).flatten(), conv(x).flatten()])
    assert torch.corrcoef(pair)[0, 1].item() == pytest.approx((2 / torch.pi) ** 0.5, abs=0.03)
    with torch.no_grad():
        conv.weight.pow_(5)  # a few large weights among many small ones
    assert BinaryWeightConv2d.warm_start_for(conv) == "none"
    assert BinaryWeightConv2d.warm_start_for(nn.Conv2d(2, 2, 1, device="meta")) is None


def test_fuses_to_a_convolution_of_two_numbers_a_filter():
    fused = BinaryWeightConv2d(4, 6, 3).fuse()
    assert type(fused) is nn.Conv2d
    assert all(len(filter_.abs().unique()) == 1 for filter_ in fused.weight)


def test_takes_all_but_the_first_and_the_last_layer_by_default():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 5, 1))
    assert [r.path for r in convswap.plan_swap(net, "binary_weight").replacements] == ["2"]
    with_linear = nn.Sequential(*net, nn.Flatten(), nn.LazyLinear(5))
    assert [r.path for r in convswap.plan_swap(with_linear, "binary_weight").replacements] == ["2", "3"]


@pytest.mark.parametrize(
    ("options", "words"), [({"gradient": "paper"}, "gradient='paper'.*'chain'"), ({"center": 1.5}, "center=1.5")]
)
def test_bad_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        BinaryWeightConv2d(2, 2, 3, **options)
