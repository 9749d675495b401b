"""The bases behind the units: geometry, constants that keep their precision, standing in for a convolution."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convswap.errors import UsageError
from convswap.units import FeatureUnit, Geometry, PlainConv2d, Unit, WeightUnit, plain_conv

THIRDS = torch.eye(9, dtype=torch.float64, device="cpu") / 3


class ThirdConv2d(WeightUnit):
    """A weight unit with a constant matrix that no low precision holds: W = w M, M = I / 3."""

    def setup(self) -> None:
        self.register_constants()

    def constants(self) -> dict[str, Tensor]:
        return {"matrix": THIRDS}

    def effective_weight(self) -> Tensor:
        weight = self.weight.to(self.matrix.dtype).flatten(2) @ self.matrix  # type: ignore[operator]
        return weight.reshape(self.weight.shape)

    @classmethod
    def supports(cls, conv: nn.Conv2d, **options: Any) -> str | None:
        return None if conv.kernel_size == (3, 3) else "needs a 3x3 kernel"


class BranchConv2d(FeatureUnit):
    """A feature unit without its own `fuse`."""

    def setup(self) -> None:
        self.branch = nn.Conv2d(**self.geometry.arguments(), **self.place)

    @property
    def weight(self) -> Tensor:
        return self.branch.weight

    @property
    def bias(self) -> Tensor | None:
        return self.branch.bias

    def forward(self, input: Tensor) -> Tensor:
        return self.branch(input)


K3: dict[str, Any] = {"in_channels": 2, "out_channels": 3, "kernel_size": 3, "padding": 1}


@pytest.mark.parametrize("base", [nn.Conv2d, PlainConv2d, BranchConv2d])
@pytest.mark.parametrize("padding", [0, (1, 2), "same", "valid"])
def test_geometry_reads_back_what_the_constructor_took(base: Any, padding: Any) -> None:
    module = base(4, 6, (3, 5), 1, padding, 2, 2, False, "circular")
    expected = Geometry(
        4, 6, (3, 5), padding=(0, 0) if padding == 0 else padding, dilation=(2, 2), groups=2, bias=False
    )
    expected = Geometry(**expected.arguments() | {"padding_mode": "circular"})
    assert Geometry.of(module) == expected
    assert Geometry.of(nn.Conv2d(**expected.arguments())) == expected


def test_geometry_of_a_subclass_of_conv2d() -> None:
    class Mine(nn.Conv2d):
        pass

    assert Geometry.of(Mine(2, 3, 1, bias=False)) == Geometry(2, 3, (1, 1), bias=False)


@pytest.mark.parametrize(
    ("geometry", "text"),
    [
        (Geometry(64, 128, (3, 3), (2, 2), groups=4), "64->128 3x3 s2 g4"),
        (Geometry(8, 8, (5, 1), (2, 1), groups=8), "8->8 5x1 s2x1 depthwise"),
        (Geometry(1, 1, (1, 1), dilation=(2, 2), padding_mode="reflect"), "1->1 1x1 d2 reflect"),
        (Geometry(1, 2, (1, 1), dilation=(2, 3)), "1->2 1x1 d2x3"),
    ],
)
def test_geometry_in_words(geometry: Geometry, text: str) -> None:
    assert geometry.describe() == text


@pytest.mark.parametrize("visit", [torch.float16, torch.bfloat16, torch.float32])
def test_constants_come_back_exact(visit: torch.dtype) -> None:
    unit = ThirdConv2d(**K3).to(visit).double()
    assert torch.equal(unit.matrix, THIRDS)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_weights_are_formed_in_at_least_float32(dtype: torch.dtype) -> None:
    unit = ThirdConv2d(**K3, dtype=dtype)
    assert unit.matrix.dtype == torch.float32  # type: ignore[union-attr]
    assert unit.effective_weight().dtype == torch.float32
    assert unit(torch.ones(1, 2, 4, 4, dtype=dtype)).dtype == dtype


def test_constants_are_no_state() -> None:
    assert set(ThirdConv2d(**K3).state_dict()) == {"weight", "bias", "_extra_state"}


@pytest.mark.parametrize("how", ["to_empty", "assign"])
def test_constants_follow_off_the_meta_device(how: str) -> None:
    source = ThirdConv2d(**K3)
    unit = ThirdConv2d(**K3, device="meta")
    assert unit.matrix.is_meta  # type: ignore[union-attr]
    if how == "to_empty":
        unit.to_empty(device="cpu")
        assert torch.equal(unit.matrix, THIRDS.float())  # type: ignore[arg-type]
    unit.load_state_dict(copy.deepcopy(source.state_dict()), assign=how == "assign")
    x = torch.randn(2, 2, 5, 5)
    assert torch.equal(unit(x), source(x))


def test_constants_follow_the_precision_of_an_assigned_weight() -> None:
    unit = ThirdConv2d(**K3)
    unit.load_state_dict(ThirdConv2d(**K3, dtype=torch.float64).state_dict(), assign=True)
    assert torch.equal(unit.matrix, THIRDS)  # type: ignore[arg-type]
    assert unit(torch.ones(1, 2, 4, 4, dtype=torch.float64)).dtype == torch.float64


def test_shared_constants_are_not_shared_between_units() -> None:
    first, second = ThirdConv2d(**K3, dtype=torch.float64), ThirdConv2d(**K3)
    assert torch.equal(second.matrix.double(), THIRDS.float().double())  # type: ignore[union-attr,arg-type]
    assert first.half().matrix.dtype == torch.float32  # type: ignore[union-attr]
    assert THIRDS.dtype == torch.float64


@pytest.mark.parametrize("cls", [PlainConv2d, ThirdConv2d, BranchConv2d])
@pytest.mark.parametrize("start", ["from_conv", "fresh_like"])
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_unit_takes_over_mode_device_dtype_and_values(cls: Any, start: str, train: bool, device: str) -> None:
    conv = nn.Conv2d(**K3, dtype=torch.bfloat16, device=device).train(train)
    unit = getattr(cls, start)(conv)
    assert isinstance(unit, Unit)
    assert all(module.training == train for module in unit.modules())
    assert unit.weight.device.type == device
    assert unit.weight.dtype == torch.bfloat16
    assert unit.weight.data_ptr() != conv.weight.data_ptr() or device == "meta"
    if device == "cpu":
        assert torch.equal(unit.weight, conv.weight)
        assert torch.equal(unit.bias, conv.bias)


@pytest.mark.parametrize(("weight", "bias"), [(True, True), (True, False), (False, False), (False, True)])
def test_a_unit_takes_over_what_was_frozen(weight: bool, bias: bool) -> None:
    conv = nn.Conv2d(**K3)
    conv.weight.requires_grad_(weight)
    conv.bias.requires_grad_(bias)  # type: ignore[union-attr]
    for cls in (PlainConv2d, BranchConv2d):
        unit = cls.from_conv(conv)
        assert unit.weight.requires_grad == weight
        assert unit.bias.requires_grad == bias  # type: ignore[union-attr]


def test_a_refused_place_is_an_error_with_the_place_and_the_reason() -> None:
    with pytest.raises(UsageError, match=r"ThirdConv2d cannot replace Conv2d\(2, 3, kernel_size=\(1, 1\).*needs a 3x3"):
        ThirdConv2d.from_conv(nn.Conv2d(2, 3, 1))


def test_a_weight_unit_without_its_method_says_so() -> None:
    class Empty(WeightUnit):
        pass

    with pytest.raises(NotImplementedError, match="Empty must write effective_weight"):
        Empty(1, 1, 1)(torch.zeros(1, 1, 2, 2))


def test_autocast_forms_the_weight_in_full_precision() -> None:
    seen = []

    class Watching(ThirdConv2d):
        def effective_weight(self) -> Tensor:
            weight = super().effective_weight()
            seen.append(weight.dtype)
            return weight

    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = Watching(**K3)(torch.ones(1, 2, 4, 4))
    assert seen == [torch.float32]
    assert output.dtype == torch.bfloat16


def test_fusing_rounds_once() -> None:
    """The fused weight of a half unit is the float64 one, rounded last."""
    unit = ThirdConv2d(**K3, dtype=torch.float16).eval()
    exact = (unit.weight.detach().double() / 3).half()
    assert torch.equal(unit.fuse().weight, exact)


def test_plain_conv_reads_its_size_off_the_weight() -> None:
    like = torch.empty(0, dtype=torch.float64, requires_grad=True)
    conv = plain_conv(Geometry(4, 6, (3, 3), padding=(1, 1), groups=2), torch.ones(8, 2, 5, 5), None, like=like)
    assert Geometry.of(conv) == Geometry(4, 8, (5, 5), padding=(1, 1), groups=2, bias=False)
    assert conv.weight.dtype == torch.float64
    assert conv.weight.requires_grad
    assert not conv.training


def test_a_feature_unit_fuses_to_an_independent_copy() -> None:
    unit = BranchConv2d(**K3).eval()
    fused = unit.fuse()
    assert type(fused) is BranchConv2d
    assert fused.weight.data_ptr() != unit.weight.data_ptr()
    x = torch.randn(1, 2, 5, 5)
    assert torch.equal(fused(x), unit(x))


def test_a_feature_unit_prints_its_geometry_as_conv2d_does() -> None:
    arguments = (4, 6, (3, 5), (2, 1), (1, 2), (2, 1), 2, True, "reflect")
    theirs = nn.Conv2d(*arguments).extra_repr()  # type: ignore[arg-type]
    assert BranchConv2d(*arguments).extra_repr() == theirs


@pytest.mark.parametrize("bad", [{"groups": 3}, {"padding": "same", "stride": 2}, {"padding_mode": "mirror"}])
def test_a_feature_unit_refuses_what_conv2d_refuses(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        nn.Conv2d(4, 4, 3, **bad)
    with pytest.raises(ValueError):
        BranchConv2d(4, 4, 3, **bad)
