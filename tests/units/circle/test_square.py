"""Two branches, each with a BatchNorm: the formula, the fold and the start."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from convswap.errors import FusionError
from convswap.units import CircleSquareConv2d
from convswap.units.circle.geometry import sampling_matrix


def randomised(unit: CircleSquareConv2d, eps: float = 1e-5) -> CircleSquareConv2d:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for bn in (unit.square_bn, unit.circle_bn):
            bn.eps = eps
            bn.running_mean.normal_(generator=generator)
            bn.running_var.uniform_(0.2, 3, generator=generator)
            if bn.affine:
                bn.weight.normal_(generator=generator)  # negative ones too
                bn.bias.normal_(generator=generator)
    return unit.eval()


def naive(unit: CircleSquareConv2d, x: torch.Tensor, stride: int, dilation: int, groups: int) -> torch.Tensor:
    """The two branches written out, on an input that is already padded."""
    size = unit.kernel_size[0]
    circle = unit.circle.weight.reshape(-1, size * size) @ sampling_matrix(size)
    total = torch.zeros(())
    for weight, bn in ((unit.square.weight, unit.square_bn), (circle.reshape(unit.weight.shape), unit.circle_bn)):
        y = conv2d(x, weight, None, stride, 0, dilation, groups)
        y = (y - bn.running_mean[:, None, None]) / torch.sqrt(bn.running_var + bn.eps)[:, None, None]
        total = total + y * bn.weight[:, None, None] + bn.bias[:, None, None]
    return total


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize(
    ("size", "stride", "padding", "dilation", "groups"), [(3, 1, 1, 1, 1), (3, 2, 1, 1, 2), (5, 1, 4, 2, 4)]
)
def test_forward_and_fuse_are_the_formula(size, stride, padding, dilation, groups, padding_mode):
    unit = CircleSquareConv2d(
        4, 8, size, stride, padding, dilation, groups, padding_mode=padding_mode, dtype=torch.float64
    )
    randomised(unit, eps=0.03)
    x = torch.randn(2, 4, 9, 11, dtype=torch.float64)
    mode = "constant" if padding_mode == "zeros" else padding_mode
    expected = naive(unit, nn.functional.pad(x, (padding,) * 4, mode=mode), stride, dilation, groups)
    torch.testing.assert_close(unit(x), expected, rtol=0, atol=1e-10)
    fused = unit.fuse()
    assert type(fused) is nn.Conv2d
    torch.testing.assert_close(fused(x), expected, rtol=0, atol=1e-10)


def test_fold_without_affine_parameters_and_refused_without_statistics():
    unit = CircleSquareConv2d(2, 3, 3, padding=1, dtype=torch.float64)
    unit.circle_bn = nn.BatchNorm2d(3, affine=False, dtype=torch.float64)
    randomised(unit)
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(unit.fuse()(x), unit(x), rtol=0, atol=1e-11)
    unit.square_bn = nn.BatchNorm2d(3, track_running_stats=False, dtype=torch.float64)
    with pytest.raises(FusionError, match="running statistics"):
        unit.fuse()


@pytest.mark.parametrize("size", [3, 5, 7, 9])
@pytest.mark.parametrize("bias", [True, False])
def test_starts_exactly_from_a_convolution_in_evaluation(size, bias):
    conv = nn.Conv2d(4, 6, size, 2, 2, groups=2, bias=bias, dtype=torch.float64).eval()
    unit = CircleSquareConv2d.from_conv(conv)
    x = torch.randn(2, 4, 10, 11, dtype=torch.float64)
    torch.testing.assert_close(unit(x), conv(x), rtol=0, atol=1e-10)
    torch.testing.assert_close(unit.fuse()(x), conv(x), rtol=0, atol=1e-10)
    if size < 9:
        torch.testing.assert_close(unit.square.weight, conv.weight / 2, rtol=0, atol=1e-10)
    assert (unit.bias is None) == (not bias)


def test_fresh_start_takes_the_hosts_draw_and_its_scale():
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 32, 3)
    nn.init.kaiming_normal_(conv.weight)
    unit = CircleSquareConv2d.fresh_like(conv)
    assert torch.equal(unit.weight, conv.weight)
    assert not torch.allclose(unit.circle.weight, conv.weight)
    torch.testing.assert_close(unit.circle.weight.std(), conv.weight.std())
    assert torch.equal(unit.bias, conv.bias)
    for bn in (unit.square_bn, unit.circle_bn):
        assert bn.weight.eq(1).all()
        assert bn.running_var.eq(1).all()


def test_fuse_after_training_steps_leaves_the_unit_alone():
    torch.manual_seed(0)
    unit = CircleSquareConv2d(3, 4, 3, padding=1, radius="learnable")
    optimizer = torch.optim.SGD(unit.parameters(), lr=0.05)
    for _ in range(5):
        optimizer.zero_grad()
        unit(torch.randn(4, 3, 8, 8)).square().mean().backward()
        assert all(p.grad is not None for p in unit.parameters())
        optimizer.step()
    unit.eval()
    before = copy.deepcopy(unit.state_dict())
    fused = unit.fuse()
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(fused(x), unit(x), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[key], value) for key, value in unit.state_dict().items())


def test_gradients_are_right():
    unit = randomised(CircleSquareConv2d(1, 2, 3, padding=1, dtype=torch.float64))
    x = torch.randn(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(unit, (x,))
    weight = unit.circle.weight

    def forward(w):
        return torch.func.functional_call(unit, {"circle.weight": w}, (x.detach(),))

    assert torch.autograd.gradcheck(forward, (weight.detach().clone().requires_grad_(),))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="angles='odd'"):
        CircleSquareConv2d(1, 1, 3, angles="odd")
    with pytest.raises(ValueError, match="no ring"):
        CircleSquareConv2d(1, 1, 1)
    assert CircleSquareConv2d.supports(nn.Conv2d(1, 1, (3, 5))) is not None
