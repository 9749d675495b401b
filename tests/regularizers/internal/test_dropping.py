"""The formulas of the methods that drop values, against loops written from the papers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from convswap.regularizers.internal.attaching import Change, linear_rates
from convswap.regularizers.internal.drop_block import drop_mask
from convswap.regularizers.internal.dropout import Drop
from convswap.regularizers.internal.max_dropout import max_dropout
from convswap.regularizers.internal.max_pool_dropout import dropped_max_pool
from convswap.regularizers.internal.spatial_dropout import DropChannels
from convswap.regularizers.internal.stochastic_depth import DropBranch
from convswap.regularizers.internal.target_drop import ChannelAttention, DropTargets, TargetDrop, target_mask
from convswap.surgery.pooling import ProbabilisticMaxPool2d


def golden(shared, name: str) -> dict[str, object]:
    return torch.load(shared / "golden" / "regularisation" / f"case_{name}.pt", weights_only=True)


def ones(count: int = 4000, channels: int = 4) -> Tensor:
    return torch.ones(count, channels, 2, 2)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_drops_single_values_and_keeps_the_mean(rate: float) -> None:
    torch.manual_seed(0)
    y = Drop(nn.Identity(), rate).train(ones())
    assert set(y.unique().tolist()) == {0.0, torch.tensor(1 / (1 - rate)).item()}
    assert float((y == 0).float().mean()) == pytest.approx(rate, abs=0.01)
    whole = (y == 0).flatten(2).float().mean(2)
    assert ((whole > 0) & (whole < 1)).any(), "values of one channel drop independently"


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_spatial_dropout_drops_whole_channels(rate: float) -> None:
    torch.manual_seed(0)
    y = DropChannels(nn.Identity(), rate).train(ones())
    assert torch.equal(y, y[:, :, :1, :1].expand_as(y))
    assert float((y == 0).float().mean()) == pytest.approx(rate, abs=0.015)
    assert float(y.mean()) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("mode", ["row", "batch"])
def test_stochastic_depth_drops_whole_branches(mode: str) -> None:
    torch.manual_seed(0)
    drawn = torch.stack([DropBranch(nn.Identity(), 0.3, mode).train(ones(4)) for _ in range(2000)])
    assert set(drawn.unique().tolist()) == {0.0, torch.tensor(1 / 0.7).item()}
    rows = drawn.flatten(2)
    assert torch.equal(rows, rows[:, :, :1].expand_as(rows))
    alike = torch.equal(rows, rows[:, :1].expand_as(rows))
    assert alike == (mode == "batch")
    assert float(drawn.mean()) == pytest.approx(1, abs=0.05)


def test_depth_decides_the_rate() -> None:
    assert linear_rates(0.5, 4) == [0.125, 0.25, 0.375, 0.5]


def naive_max_dropout(x: Tensor, rate: float) -> Tensor:
    low, high = float(x.min()), float(x.max())
    y = x.clone()
    for index in range(x.numel()):
        value = float(x.flatten()[index])
        if (value - low) / (high - low) > 1 - rate:
            y.view(-1)[index] = 0
    return y


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5])
def test_max_dropout_is_the_authors(rate: float, shared) -> None:
    case = golden(shared, "maxdropout")
    assert torch.equal(max_dropout(case["input"], rate), case["output"][f"train_{rate}"])


@pytest.mark.parametrize("rate", [0.2, 0.6])
def test_max_dropout_is_its_formula(rate: float) -> None:
    torch.manual_seed(1)
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    assert torch.equal(max_dropout(x, rate), naive_max_dropout(x, rate))
    assert torch.equal(max_dropout(torch.ones(2, 2), rate), torch.ones(2, 2)), "a constant has no largest values"


def naive_drop_block(x: Tensor, corners: Tensor, size: int) -> Tensor:
    """Algorithm 1 of the paper: squares at the corners drawn, and what is left scaled up."""
    mask = torch.ones_like(x)
    for n, c, i, j in corners.nonzero().tolist():
        mask[n, c, i : i + size, j : j + size] = 0
    return x * mask * mask.numel() / mask.sum()


@pytest.mark.parametrize(("rate", "size"), [(0.1, 7), (0.2, 5)])
def test_drop_block_is_its_formula_and_torchvisions(rate: float, size: int, shared) -> None:
    case = golden(shared, "dropblock_torchvision")
    x = case["input"]
    valid = 14 - size + 1
    gamma = rate * 14**2 / (size**2 * valid**2)
    torch.manual_seed(11)
    corners = torch.rand(2, 4, valid, valid) < gamma
    torch.manual_seed(11)
    ours = x * drop_mask(x, rate, size)
    torch.testing.assert_close(ours, naive_drop_block(x, corners, size), rtol=1e-6, atol=1e-6)
    torch.manual_seed(11)
    theirs = torch.empty(2, 4, valid, valid, dtype=x.dtype).bernoulli_(gamma)  # torchvision's draw of the corners
    expected = case["output"][f"p{rate}_b{size}"]
    torch.testing.assert_close(naive_drop_block(x, theirs, size), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("side", "block"), [(32, 7), (14, 7), (8, 5), (7, 7), (4, 3), (4, 7), (2, 7)])
def test_drop_block_drops_what_is_asked(side: int, block: int) -> None:
    torch.manual_seed(0)
    mask = drop_mask(torch.zeros(256, 64, side, side), 0.1, block)
    assert float((mask == 0).float().mean()) == pytest.approx(0.1, abs=0.012)
    assert float(mask.mean()) == pytest.approx(1, rel=1e-4), "what stays is scaled up"
    channels = (mask == 0).flatten(2).any(2)
    assert not torch.equal(channels, channels[:, :1].expand_as(channels)), "each channel draws its own"


def test_drop_block_counts_beyond_half_precision() -> None:
    mask = drop_mask(torch.zeros(64, 64, 8, 8, dtype=torch.float16), 0.1, 5)  # 262144 values; 65504 are the most
    assert mask.dtype == torch.float32
    assert float(mask.max()) == pytest.approx(1.11, abs=0.03)


def naive_target_drop(x: Tensor, attention: ChannelAttention, rate: float, size: int) -> Tensor:
    count, channels, height, width = x.shape
    y = x.clone()
    for n in range(count):
        mean = x[n].mean((1, 2))
        weights = torch.sigmoid(attention.fc2.weight @ torch.relu(attention.fc1.weight @ mean))
        for c in torch.argsort(weights, descending=True)[: int(channels * rate)].tolist():
            row, column = divmod(int(x[n, c].argmax()), width)
            kept = torch.ones(height, width, dtype=x.dtype)
            for i in range(height):
                for j in range(width):
                    if abs(i - row) <= size // 2 and abs(j - column) <= size // 2:
                        kept[i, j] = 0
            y[n, c] = x[n, c] * kept * (height * width / kept.sum())
    return y


@pytest.mark.parametrize("reweight", [False, True])
def test_target_drop_is_its_formula(reweight: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 32, 8, 7, dtype=torch.float64, requires_grad=True)
    attention = ChannelAttention(32, 16).double()
    y = DropTargets(nn.Identity(), attention, TargetDrop(reweight=reweight)).train(x)
    torch.testing.assert_close(y, naive_target_drop(x.detach(), attention, 0.15, 5))
    assert attention.fc1.weight.shape == (4, 32)
    y.square().sum().backward()
    changed = (y == x).flatten(2).all(2).logical_not().sum(1)
    assert changed.tolist() == [4, 4, 4]
    trained = attention.fc1.weight.grad is not None and bool(attention.fc1.weight.grad.abs().sum() > 0)
    assert trained == reweight


def test_reweighting_is_the_gradient_of_a_factor() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 8, 9, 9, dtype=torch.float64)
    attention = ChannelAttention(8, 2).double()
    upstream = torch.randn_like(x)
    (DropTargets(nn.Identity(), attention, TargetDrop(0.5, reweight=True)).train(x) * upstream).sum().backward()
    found = attention.fc2.weight.grad
    attention.zero_grad()
    mask = target_mask(x, attention(x).detach(), 0.5, 5)
    (x * mask * attention(x)[:, :, None, None] * upstream).sum().backward()
    torch.testing.assert_close(found, attention.fc2.weight.grad)


def test_target_drop_on_a_map_smaller_than_its_square() -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 16, 4, 4)
    y = DropTargets(nn.Identity(), ChannelAttention(16, 16), TargetDrop(0.5)).train(x)
    assert torch.isfinite(y).all()
    assert ((y == 0).flatten(2).sum(2) <= 9).all(), "the square has the side 3 there"


def naive_expectation(x: Tensor, kernel: int, stride: int, padding: int, rate: float) -> Tensor:
    """Over all subsets of each window: the maximum of what is left times the probability of that subset."""
    n, c, height, width = x.shape
    out = [(side + 2 * padding - kernel) // stride + 1 for side in (height, width)]
    y = torch.zeros(n, c, *out, dtype=x.dtype)
    for a in range(n):
        for b in range(c):
            for i in range(out[0]):
                for j in range(out[1]):
                    rows = range(max(0, i * stride - padding), min(height, i * stride - padding + kernel))
                    columns = range(max(0, j * stride - padding), min(width, j * stride - padding + kernel))
                    values = [float(x[a, b, r, s]) for r in rows for s in columns]
                    for subset in range(1, 2 ** len(values)):
                        left = [v for k, v in enumerate(values) if subset >> k & 1]
                        y[a, b, i, j] += max(left) * (1 - rate) ** len(left) * rate ** (len(values) - len(left))
    return y


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 0), (2, 1, 1)])
def test_probabilistic_pooling_is_the_expectation(kernel: int, stride: int, padding: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64)
    pool = ProbabilisticMaxPool2d(kernel, stride, padding, rate=0.3)
    torch.testing.assert_close(pool(x), naive_expectation(x, kernel, stride, padding, 0.3))
    drawn = torch.stack([dropped_max_pool(x, pool, 0.3) for _ in range(4000)])
    error = drawn.std(0) / math.sqrt(len(drawn))
    assert ((drawn.mean(0) - pool(x)).abs() <= 5 * error + 1e-9).all()


@pytest.mark.parametrize("pool", [nn.MaxPool2d(3, 2, ceil_mode=True), nn.MaxPool2d((2, 3), (1, 2), (1, 0), dilation=2)])
def test_without_dropping_it_is_max_pooling(pool: nn.MaxPool2d) -> None:
    from convswap.surgery.pooling.probabilistic import geometry_of

    x = torch.randn(2, 3, 8, 9)
    never = ProbabilisticMaxPool2d(**geometry_of(pool), rate=0)
    assert torch.equal(never(x), pool(x))
    assert torch.equal(dropped_max_pool(x, pool, 0.0), pool(x))


def test_a_window_without_values_gives_zero() -> None:
    x = -torch.ones(1, 1, 4, 4)
    assert (dropped_max_pool(x, nn.MaxPool2d(2), 0.999999) == 0).all()


def test_the_owner_decides_not_the_module() -> None:
    owner, norm = nn.Sequential(nn.BatchNorm2d(3)), nn.BatchNorm2d(3).eval()

    class Zero(Change):
        def train(self, x: Tensor) -> Tensor:
            return x * 0

    hook = Zero(owner.train())
    x = torch.ones(2, 3, 4, 4)
    assert not hook(norm, (x,), x).any(), "a batch norm with frozen statistics is in eval mode"
    assert torch.equal(Zero(owner.eval())(norm.train(), (x,), x), x)
