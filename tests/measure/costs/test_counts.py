"""The cost vector: single operators by hand, refusals, modules, and the MACs that are published of whole networks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convswap.errors import UsageError
from convswap.measure.costs.model import CostError, Counts, Parameters, cost, register_cost, unregister_cost
from convswap.models import create_model

PUBLISHED = Path(__file__).parents[2] / "models" / "published"
FEWEST_NETWORKS = 20
LARGEST = 650_000_000  # MACs: more is nothing new, and takes longer to build


@torch.library.custom_op("convswap_test::mystery", mutates_args=())
def mystery(x: Tensor) -> Tensor:
    return x.clone()


@mystery.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


mystery.register_autograd(lambda ctx, gradient: mystery(gradient))


class Mysterious(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return mystery(x)


class Run(nn.Module):
    """A module of one function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def counts(function: Any, x: Tensor) -> Counts:
    return cost(Run(function), x, fused=False).counts


@pytest.fixture
def known() -> Iterator[None]:
    @register_cost("convswap_test::mystery")
    def _(call: Any) -> Counts:
        return Counts(special=3 * call.written)

    yield
    unregister_cost("convswap_test::mystery")


def test_an_operator_without_a_formula_is_refused_with_its_module() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.ReLU(), Mysterious()))
    with pytest.raises(CostError, match=r"convswap_test::mystery in module '1\.1' \(Mysterious\) has no cost formula"):
        cost(model, torch.zeros(1, 3, 2, 2))
    with pytest.raises(CostError, match=r"in the model itself \(Mysterious\)"):
        cost(Mysterious(), torch.zeros(1, 3, 2, 2))


def test_an_operator_of_the_backward_pass_is_refused_too() -> None:
    class Backward(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
            return mystery(gradient)

    model = nn.Sequential(nn.Conv2d(3, 4, 1), Run(Backward.apply))
    assert cost(model, torch.zeros(1, 3, 2, 2), fused=False).counts.macs == 4 * 3 * 4
    with pytest.raises(CostError, match="mystery in the backward pass of"):
        cost(model, torch.zeros(1, 3, 2, 2), mode="training")


def test_a_formula_of_ones_own(known: None) -> None:
    found = cost(nn.Sequential(nn.Identity(), Mysterious()), torch.zeros(1, 3, 2, 2), fused=False)
    assert found.counts.special == 36
    assert found.modules["1"].special == 36
    assert found.operators["convswap_test::mystery"].special == 36
    with pytest.raises(UsageError, match="'convswap_test::mystery' already has a cost formula"):
        register_cost("convswap_test::mystery")
    with pytest.raises(UsageError, match="operator 'mystery' is not allowed"):
        register_cost("mystery")


def test_a_network_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10)
    )
    found = cost(model, torch.zeros(2, 3, 8, 8))
    maps, numbers = 2 * 8 * 64, 2 * 8 * 16
    assert found.counts.macs_float == maps * 27 + 2 * 10 * 128
    assert found.counts.additions == maps + maps + 20  # bias, BatchNorm's shift, bias
    assert found.counts.multiplications == maps
    assert found.counts.comparisons == maps + 3 * numbers
    assert found.counts.special == 8
    assert found.counts.activations == maps + 20
    moved = {
        "aten::convolution": 2 * 3 * 64 + 8 * 27 + 8 + maps,
        "aten::relu": 2 * maps,
        "aten::max_pool2d_with_indices": maps + numbers + 2 * numbers,  # places are 64-bit numbers
        "aten::addmm": 10 + 256 + 1280 + 20,
    }
    assert {name: found.operators[name].bytes_moved for name in moved} == {n: 4 * v for n, v in moved.items()}
    assert found.parameters == Parameters(
        trainable=216 + 8 + 16 + 1290, frozen=0, buffers=17, constants=0, bits=32 * (1530 + 16) + 64
    )
    assert found.fused is not None
    assert found.fused.parameters.total == 1530 - 16
    assert found.fused.counts.additions == maps + 20
    assert found.fused.counts.multiplications == 0
    assert "macs_float" in str(found)
    assert json.loads(json.dumps(found.as_dict()))["fused"]["macs_float"] == found.counts.macs_float


def test_a_training_step_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    first = cost(model, torch.zeros(2, 3, 8, 8), mode="training").counts
    inner = cost(model, torch.zeros(2, 3, 8, 8), mode="training", input_gradient=True).counts
    maps = 2 * 8 * 64
    assert first.macs == 2 * maps * 27  # nobody asks for the gradient of the image
    assert inner.macs == 3 * maps * 27
    assert inner.activations == maps
    # BatchNorm: mean, deviations, squares, shift; back: sum(g), deviations, sum(g d), then two differences.
    assert first.additions == 4 * maps + 5 * maps + 1  # and one more batch was tracked
    assert first.multiplications == 2 * maps + 3 * maps
    assert first.comparisons == 2 * maps


@pytest.mark.parametrize("groups", [1, 4, 8])
@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_of_grouped_convolutions_cost_as_much_as_they(groups: int, transposed: bool) -> None:
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    conv = kind(8, 8, 3, stride=2, groups=groups, bias=False)
    x = torch.zeros(2, 8, 9, 7)
    forward = cost(conv, x, fused=False).counts.macs
    small = 9 * 7 if transposed else 4 * 3
    assert forward == 2 * small * 8 * (8 // groups) * 9
    assert cost(conv, x, mode="training", input_gradient=True).counts.macs == 3 * forward


X = torch.zeros(2, 3, 8, 8)
SIZE = 2 * 3 * 64
Z = torch.zeros(2, 3, 8, 8, dtype=torch.complex64)


@pytest.mark.parametrize(
    ("function", "x", "expected"),
    [
        (lambda x: x + x, X, Counts(additions=SIZE)),
        (lambda x: torch.add(x, x, alpha=3), X, Counts(additions=SIZE, multiplications=SIZE)),
        (lambda x: x.clamp(min=0, max=1), X, Counts(comparisons=2 * SIZE)),
        (lambda x: x / 3, X, Counts(multiplications=SIZE)),
        (lambda x: x / x, X, Counts(special=SIZE)),
        (lambda x: x**2, X, Counts(multiplications=SIZE)),
        (lambda x: x**0.3, X, Counts(special=SIZE)),
        (lambda x: x.sum(), X, Counts(additions=SIZE - 1)),
        (lambda x: x.mean((2, 3)), X, Counts(additions=SIZE - 6, multiplications=6)),
        (lambda x: x.amax(1), X, Counts(comparisons=SIZE * 2 // 3)),
        (lambda x: x.abs().sign(), X, Counts(bitwise=2 * SIZE)),
        (lambda x: x.to(torch.float64), X, Counts(bitwise=SIZE)),
        (lambda x: nn.functional.avg_pool2d(x, 2), X, Counts(additions=3 * SIZE // 4, multiplications=SIZE // 4)),
        (lambda x: x.transpose(1, 2).flatten(1)[:, ::2].expand(2, 2, -1), X, Counts()),
        (lambda x: nn.functional.pad(x, (1, 1)), X, Counts()),
        (lambda x: torch.fft.rfft2(x), X, Counts(fft=6 * 5 * 64 * 6 // 2)),
        (lambda x: torch.fft.fft2(x), Z, Counts(fft=6 * 5 * 64 * 6)),
        (lambda x: torch.fft.irfft2(x, s=(8, 8)), Z[..., :5], Counts(fft=6 * 5 * 64 * 6 // 2)),
        (lambda x: x * x, Z, Counts(multiplications=4 * SIZE, additions=2 * SIZE)),
        (lambda x: x * 2.0, Z, Counts(multiplications=2 * SIZE)),
        (lambda x: x[0, 0] @ x[0, 1], Z, Counts(macs_float=4 * 8 * 8 * 8)),
        (lambda x: torch._int_mm(x, x), torch.zeros(32, 32, dtype=torch.int8), Counts(macs_int8=32**3)),
        (lambda x: torch.cdist(x, x, 1), torch.zeros(5, 7), Counts(additions=2 * 175, bitwise=175)),
    ],
)  # fmt: skip
def test_operators_by_hand(function: Any, x: Tensor, expected: Counts) -> None:
    found = counts(function, x).as_dict()
    arithmetic = [name for name in found if name not in ("activations", "bytes_moved")]
    wanted = expected.as_dict()
    assert {name: found[name] for name in arithmetic} == {name: wanted[name] for name in arithmetic}


def test_attention_is_two_products() -> None:
    def attend(x: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x)

    x = torch.zeros(1, 2, 10, 8)
    assert counts(attend, x).macs == 2 * (2 * 10 * 10 * 8)
    step = cost(Run(attend), x, mode="training", input_gradient=True).counts
    assert step.macs == 3 * 2 * (2 * 10 * 10 * 8)


def test_what_is_repeated_or_only_viewed_is_not_moved_twice() -> None:
    assert counts(lambda x: x.flatten(1), X).bytes_moved == 0
    assert counts(lambda x: x + x[:, :1, :1, :1].expand_as(x), X).bytes_moved == 4 * (SIZE + 2 + SIZE)
    assert counts(lambda x: torch.empty_like(x), X).bytes_moved == 0
    assert counts(lambda x: x.relu_(), X).bytes_moved == 4 * 2 * SIZE


def test_modules_hold_what_is_inside() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()))
    found = cost(model, torch.zeros(1, 3, 5, 5), fused=False)
    assert found.modules[""] == found.counts
    assert found.modules["0"].macs == 25 * 12
    assert found.modules["1"].macs == found.modules["1.0"].macs == 9 * 4 * 36
    assert found.modules["1.1"].comparisons == 36


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    for mode in ("inference", "training"):
        cost(model, torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), mode=mode)  # type: ignore[arg-type]
    assert torch.equal(state, torch.get_rng_state())
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_why_a_model_is_not_fused() -> None:
    with torch.device("meta"):
        model = nn.Conv2d(3, 4, 1)
    assert "no memory" in str(cost(model, torch.zeros(1, 3, 2, 2)).fuse_problem)
    assert cost(nn.Conv2d(3, 4, 1), torch.zeros(1, 3, 2, 2), mode="training").fuse_problem is None


def test_bad_arguments_are_named() -> None:
    with pytest.raises(UsageError, match="mode='sleep' is not allowed"):
        cost(nn.Identity(), X, mode="sleep")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"\(0, 3\)"):
        cost(nn.Identity(), torch.zeros(0, 3))


def _published() -> list[dict[str, Any]]:
    found = {}
    for path in sorted(PUBLISHED.glob("*.json")):
        for row in json.loads(path.read_text()):
            as_named = row["swap"] is None and not row.get("chain")
            met = row["published_macs"] and row["reason"] is None and as_named
            meta = "regnet" not in row["model"]  # torchvision's reads values while it is built
            if met and meta and row["macs"] <= LARGEST:
                found.setdefault((row["model"], json.dumps(row["arguments"])), row)
    rows = sorted(found.values(), key=lambda row: row["macs"])
    return rows[:: max(1, len(rows) // FEWEST_NETWORKS)]  # small and large ones


ROWS = _published()


def test_there_are_enough_published_networks() -> None:
    assert len(ROWS) >= FEWEST_NETWORKS


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["model"])
def test_published_multiply_accumulates(row: dict[str, Any]) -> None:
    with torch.device("meta"):
        model = create_model(
            row["model"], num_classes=row["num_classes"], in_channels=row["in_channels"], **row["arguments"]
        )
    found = cost(model, torch.zeros(1, row["in_channels"], *row["image_size"]), fused=False)
    assert found.counts.macs == row["macs"]
    assert found.parameters.total == row["parameters"]


def test_sums_of_products_by_kind() -> None:
    """Papers count the products of all kinds as one, FLOPs are floating point's alone, OPs pack 64 bits in one."""
    for name, ops in (("macs_float", 1.0), ("macs_int8", 1.0), ("macs_binary", 1 / 64)):
        counts = Counts(**{name: 640})
        assert counts.macs == 640
        assert counts.ops == 640 * ops
        assert counts.flops == (1280 if name == "macs_float" else 0)
    others = {field.name for field in fields(Counts)} - {"macs_float", "macs_int8", "macs_binary"}
    rest = Counts(**dict.fromkeys(others, 7))
    assert (rest.macs, rest.flops, rest.ops) == (0, 0, 0)
    assert Counts(**dict.fromkeys(others, 3)) + Counts(**dict.fromkeys(others, 4)) == rest
    assert rest.times(3) == Counts(**dict.fromkeys(others, 21))
