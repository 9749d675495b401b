"""One convolution in every form it is written in, and what other counters miss: all cost what they compute.

Counters that go by module class or name, or by a traced graph, give 0 or a fraction for most of these.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from convswap.measure.costs.model import Counts, Parameters, cost
from convswap.models import create_model
from convswap.units import get_unit

X = torch.zeros(1, 16, 32, 32)
PLACES = 32 * 32
CONV = PLACES * 32 * 16 * 9  # 4,718,592
MAPS = 32 * PLACES


class Functional(nn.Module):
    """A convolution that is no `nn.Conv2d`."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.zeros(32, 16, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, padding=1)


class Renamed(nn.Conv2d):
    """A subclass whose name does not say what it is."""

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, 2 * self.weight, self.bias, padding=1)


class Unfolded(Functional):
    def forward(self, x: Tensor) -> Tensor:
        columns = F.unfold(x, 3, padding=1)
        return (self.kernel.flatten(1) @ columns).view(1, 32, 32, 32)


class Pointwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.zeros(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("oc,bchw->bohw", self.kernel, x)


class _Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor) -> Tensor:
        ctx.save_for_backward(x, kernel)
        return F.conv2d(x, kernel, padding=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        x, kernel = ctx.saved_tensors
        return (
            torch.nn.grad.conv2d_input(x.shape, kernel, gradient, padding=1),
            torch.nn.grad.conv2d_weight(x, kernel.shape, gradient, padding=1),
        )


class OwnFunction(Functional):
    def forward(self, x: Tensor) -> Tensor:
        return _Own.apply(x, self.kernel)


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def parametrised() -> nn.Module:
    conv = nn.Conv2d(16, 32, 3, padding=1)
    parametrize.register_parametrization(conv, "weight", Doubled())
    return conv


def macs(module: nn.Module, x: Tensor = X, **options: Any) -> int:
    return cost(module, x, fused=False, **options).counts.macs_float


@pytest.mark.parametrize(
    ("module", "wanted"),
    [
        (nn.Conv2d(16, 32, 3, padding=1), CONV),
        (nn.Conv2d(16, 16, 3, padding=1, groups=16), 147_456),
        (Functional(), CONV),
        (Renamed(16, 32, 3), CONV),
        (parametrised(), CONV),
        (Unfolded(), CONV),
        (OwnFunction(), CONV),
        (Pointwise(), 524_288),
        (nn.ConvTranspose2d(16, 32, 2, stride=2), 2_097_152),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_a_convolution_costs_the_same_however_it_is_written(module: nn.Module, wanted: int) -> None:
    assert macs(module) == wanted
    assert macs(module, mode="training", input_gradient=True) == 3 * wanted


def test_what_is_no_product() -> None:
    """BatchNorm: a scale and a shift for each number; a rectifier a comparison; pooling three for each window of 4."""
    norm = cost(nn.BatchNorm2d(16), X, fused=False).counts
    assert (norm.additions, norm.multiplications, norm.macs) == (X.numel(), X.numel(), 0)
    assert cost(nn.ReLU(), X, fused=False).counts.comparisons == X.numel()
    assert cost(nn.MaxPool2d(2), X, fused=False).counts.comparisons == 3 * X.numel() // 4
    assert cost(nn.Conv2d(16, 32, 3, padding=1), X, fused=False).counts.additions == MAPS


class Spectral(nn.Module):
    """irfft2(W rfft2(x)): a circular convolution of every map with a filter as large as it."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(x) * torch.ones(16, 32, 17, dtype=torch.complex64, device=x.device))


class Smaller(nn.Module):
    """The smaller of two depthwise convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.minimum(self.one(x), self.two(x))


class Agreements(nn.Module):
    """How many bits of 64-bit words agree: not(a xor b), without the popcount, which torch has not."""

    def forward(self, x: Tensor) -> Tensor:
        bits = (x > 0).flatten(1)
        return torch.bitwise_not(torch.bitwise_xor(bits, bits.flip(1))).sum(1)


class Distances(nn.Module):
    """The adder unit's |x - w|, summed over a window, for 32 outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.zeros(32, 144))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cdist(F.unfold(x, 3, padding=1).transpose(1, 2), self.kernel, p=1)


def test_units_that_multiply_little() -> None:
    """5 N log2 N for a complex transform of N = 32 x 32, half for a real one, two of them for 16 maps."""
    found = cost(Spectral(), X, fused=False).counts
    half = 16 * 32 * 17
    assert (found.fft, found.macs) == (2 * 16 * 5 * 1024 * 10 // 2, 0)
    assert (found.multiplications, found.additions) == (4 * half, 2 * half)
    found = cost(Smaller(), X, fused=False).counts
    assert (found.macs, found.comparisons) == (294_912, X.numel())
    n = X.numel()
    found = cost(Agreements(), X, fused=False).counts
    assert (found.macs, found.comparisons, found.bitwise, found.additions) == (0, n, 2 * n, n - 1)
    found = cost(Distances(), X, fused=False).counts
    assert (found.macs, found.additions, found.bitwise) == (0, 2 * CONV, CONV)


def test_interpolation_of_single_points() -> None:
    """Bilinear: four pixels, four weights, three sums, for every number sampled."""

    class Sampled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.grid_sample(x, torch.zeros(1, 5, 7, 2, device=x.device), align_corners=False)

    found = cost(Sampled(), X, fused=False).counts
    assert (found.multiplications, found.additions) == (4 * 16 * 35, 3 * 16 * 35)


@pytest.mark.parametrize(
    ("name", "wanted"), [("vit_tiny_patch16_224", 1_253_700_000), ("convnext_tiny", 4_455_500_000)]
)
def test_attention_and_linear_layers_count_at_every_place(name: str, wanted: int) -> None:
    """Others have 34 and 322 million here, or leave the products of attention out."""
    pytest.importorskip("timm")
    with torch.device("meta"):
        model = create_model(name, num_classes=1000)
    assert macs(model, torch.zeros(1, 3, 224, 224)) == pytest.approx(wanted, abs=60_000)


def test_constant_filters_have_products_but_no_parameters() -> None:
    unit = get_unit("fixed").cls(4, 4, 3, padding=1, groups=4, bias=False)
    found = cost(unit, torch.zeros(1, 4, 8, 8), fused=False)
    assert found.counts.macs_float == 64 * 4 * 9
    assert found.parameters == Parameters(trainable=0, frozen=0, buffers=36, constants=0, bits=32 * 36)


def test_what_is_shared_counts_once() -> None:
    """Two layers with one weight: 3 x 3 numbers and two biases; twice the products."""
    one, two = nn.Linear(3, 3), nn.Linear(3, 3)
    two.weight = one.weight
    two.bias.requires_grad_(False)
    found = cost(nn.Sequential(one, two), torch.zeros(5, 3), fused=False)
    assert found.parameters == Parameters(trainable=12, frozen=3, buffers=0, constants=0, bits=32 * 15)
    assert found.counts.macs_float == 2 * 5 * 9
    assert Counts(macs_float=3).flops == 6
