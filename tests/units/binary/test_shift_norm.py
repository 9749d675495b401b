"""Shift-based batch normalisation: forward, running averages and backward as the authors' Torch7 code has them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from convswap.units import ShiftBatchNorm1d, ShiftBatchNorm2d


def ap2(x: float) -> float:
    return 0.0 if x == 0 else math.copysign(2.0 ** round(math.log2(abs(x))), x)


def naive(x, gamma, beta, gy, eps):
    """Channel by channel, number by number: output, gradients, mean and inverse deviation."""
    y, gx = torch.zeros_like(x), torch.zeros_like(x)
    ggamma, gbeta, means, inverses = [], [], [], []
    for c in range(x.shape[1]):
        values, grads = x[:, c].flatten().tolist(), gy[:, c].flatten().tolist()
        n = len(values)
        mean = sum(values) / n
        centred = [v - mean for v in values]
        inverse = (sum(v * ap2(v) for v in centred) / n + eps) ** -0.5
        s, g, b = ap2(inverse), ap2(float(gamma[c])), float(beta[c])
        along = sum(ap2(v) * d for v, d in zip(centred, grads, strict=True)) / n
        mean_grad = sum(grads) / n
        y[:, c] = torch.tensor([g * v * s + b for v in centred], dtype=x.dtype).view_as(y[:, c])
        gx[:, c] = torch.tensor(
            [(-ap2(v) * along * s**2 + d - mean_grad) * s * g for v, d in zip(centred, grads, strict=True)],
            dtype=x.dtype,
        ).view_as(y[:, c])
        ggamma.append(sum(ap2(v * s) * d for v, d in zip(centred, grads, strict=True)))
        gbeta.append(sum(grads))
        means.append(mean)
        inverses.append(inverse)
    return y, gx, *(torch.tensor(v, dtype=x.dtype) for v in (ggamma, gbeta, means, inverses))


def lived_in(norm: nn.Module) -> nn.Module:
    norm.weight.data.normal_()
    norm.bias.data.normal_()
    return norm


@pytest.mark.parametrize(
    ("cls", "shape"), [(ShiftBatchNorm2d, (3, 4, 5, 2)), (ShiftBatchNorm1d, (7, 4)), (ShiftBatchNorm1d, (3, 4, 5))]
)
def test_training_is_the_formula_forward_and_backward(cls, shape) -> None:
    norm = lived_in(cls(4, dtype=torch.float64)).train()
    x = (3 * torch.randn(shape, dtype=torch.float64) + 1).requires_grad_()
    gy = torch.randn(shape, dtype=torch.float64)
    y = norm(x)
    y.backward(gy)
    expected = naive(x.detach(), norm.weight.detach(), norm.bias.detach(), gy, norm.eps)
    got = (y.detach(), x.grad, norm.weight.grad, norm.bias.grad)
    for ours, theirs in zip(got, expected, strict=False):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(norm.running_mean, 0.125 * expected[4], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(norm.running_inverse, 0.875 + 0.125 * expected[5], rtol=1e-12, atol=1e-12)


def test_evaluation_takes_the_running_averages() -> None:
    norm = lived_in(ShiftBatchNorm2d(3, dtype=torch.float64)).eval()
    norm.running_mean.normal_()
    norm.running_inverse.uniform_(0.2, 3)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    y = norm(x)
    factors = zip(norm.weight.tolist(), norm.running_inverse.tolist(), strict=True)
    scale = torch.tensor([ap2(g) * ap2(i) for g, i in factors])
    expected = (x - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    y.sum().backward()
    torch.testing.assert_close(x.grad, scale.double()[:, None, None].expand_as(x), rtol=1e-12, atol=1e-12)
    stock = norm.to_batch_norm()
    assert type(stock) is nn.BatchNorm2d
    torch.testing.assert_close(stock(x), y, rtol=1e-12, atol=1e-12)
    assert not stock.training


def test_it_stays_near_batch_normalisation() -> None:
    x = 5 * torch.randn(64, 8, 6, 6) - 2
    shift, stock = ShiftBatchNorm2d(8), nn.BatchNorm2d(8)
    pair = torch.stack([shift(x).flatten(), stock(x).flatten()]).detach()
    assert float(torch.corrcoef(pair)[0, 1]) > 0.99
    ratio = pair[0].std() / pair[1].std()
    assert 2**-0.75 < float(ratio) < 2**0.75


def test_constant_channels_and_no_affine() -> None:
    norm = ShiftBatchNorm1d(2, affine=False)
    assert list(norm.parameters()) == []
    assert torch.equal(norm(torch.full((4, 2), 3.0)), torch.zeros(4, 2))
    assert type(norm.to_batch_norm()) is nn.BatchNorm1d


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_and_compilation(dtype) -> None:
    norm = lived_in(ShiftBatchNorm2d(3))
    x = torch.randn(4, 3, 5, 5).to(dtype).float()
    expected = norm(x)
    low = norm(x.to(dtype))
    assert low.dtype == dtype
    torch.testing.assert_close(low.float(), expected, rtol=0.02, atol=0.02)
    torch._dynamo.reset()
    compiled = torch.compile(norm, fullgraph=True, backend="aot_eager")
    given = x.clone().requires_grad_()
    torch.testing.assert_close(compiled(given), expected)
    compiled(given).square().sum().backward()
    assert torch.isfinite(given.grad).all()


def test_state_goes_through_a_state_dict_and_back() -> None:
    norm = lived_in(ShiftBatchNorm1d(3))
    norm(torch.randn(9, 3))
    other = ShiftBatchNorm1d(3)
    other.load_state_dict(norm.state_dict(), strict=True)
    x = torch.randn(4, 3)
    assert torch.equal(other.eval()(x), norm.eval()(x))
    other.reset_parameters()
    assert torch.equal(other(x), x)


@pytest.mark.parametrize(
    ("wrong", "message"), [({"momentum": 2.0}, "momentum=2.0.*0 to 1"), ({"eps": 0.0}, "eps=0.0.*above 0")]
)
def test_wrong_options_are_named(wrong, message) -> None:
    with pytest.raises(ValueError, match=message):
        ShiftBatchNorm2d(3, **wrong)


def test_wrong_inputs_are_named() -> None:
    with pytest.raises(ValueError, match="3 channels"):
        ShiftBatchNorm2d(3)(torch.zeros(2, 4, 5, 5))
    with pytest.raises(ValueError, match="4-dimensional"):
        ShiftBatchNorm2d(3)(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="more than one value"):
        ShiftBatchNorm1d(3)(torch.zeros(1, 3))
