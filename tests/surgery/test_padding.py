"""Convolutions that pad by themselves are read by what they do, and units in their places pad as they do."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from networks import randomize
from timm.layers import Conv2dSame, StdConv2d
from timm.layers.conv2d_same import Conv2dSameExport
from torch import Tensor, nn

import convswap
from convswap.errors import SurgeryError
from convswap.surgery.padding import read_padding


def image(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


class DynamicSame(nn.Conv2d):
    """As EfficientNet's PyTorch versions have it."""

    def forward(self, x: Tensor) -> Tensor:
        (ih, iw), (kh, kw), (sh, sw), (dh, dw) = x.size()[-2:], self.kernel_size, self.stride, self.dilation
        rows = max((math.ceil(ih / sh) - 1) * sh + (kh - 1) * dh + 1 - ih, 0)
        columns = max((math.ceil(iw / sw) - 1) * sw + (kw - 1) * dw + 1 - iw, 0)
        if rows > 0 or columns > 0:
            x = F.pad(x, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class StaticSame(nn.Conv2d):
    """Knows its image's size when it is built."""

    def __init__(self, *args: int, borders: tuple[int, int, int, int], **kwargs: int) -> None:
        super().__init__(*args, **kwargs)
        self.static_padding = nn.ZeroPad2d(borders)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.static_padding(x), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Wrapped(nn.Conv2d):
    """As in detectron2: a norm and an activation may follow."""

    def __init__(self, *args: int, norm: nn.Module | None = None, activation: object = None, **kwargs: int) -> None:
        super().__init__(*args, **kwargs)
        self.norm, self.activation = norm, activation

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        x = x if self.norm is None else self.norm(x)
        return x if self.activation is None else self.activation(x)


PADDED = {
    "timm": lambda: Conv2dSame(4, 6, 3, stride=2),
    "timm grouped": lambda: Conv2dSame(4, 4, 5, stride=(2, 3), groups=4, bias=False),
    "dilated": lambda: Conv2dSame(4, 6, 3, stride=2, dilation=2),
    "stride 1": lambda: Conv2dSame(4, 6, 3),
    "even kernel": lambda: Conv2dSame(4, 6, 4),
    "dynamic": lambda: DynamicSame(4, 6, 5, stride=2),
    "pointwise": lambda: DynamicSame(4, 6, 1),
    "static": lambda: StaticSame(4, 6, 3, stride=2, borders=(0, 1, 0, 1)),
    "static and even": lambda: StaticSame(4, 6, 3, borders=(1, 1, 1, 1)),
    "detectron2": lambda: Wrapped(4, 6, 3, padding=1),
}
HOOKED = {"timm", "timm grouped", "dilated", "even kernel", "dynamic", "static"}


@pytest.mark.parametrize("kind", PADDED)
@pytest.mark.parametrize("unit", ["conv", "ic", "circle_square"])
def test_a_unit_pads_as_the_convolution_did(kind: str, unit: str) -> None:
    """All were skipped: "a subclass of nn.Conv2d that may behave otherwise"."""
    torch.manual_seed(0)
    model = randomize(nn.Sequential(PADDED[kind](), nn.BatchNorm2d(4 if "grouped" in kind else 6)))
    x = image(2, 4, 17, 20)
    if unit == "circle_square" and kind in ("even kernel", "pointwise"):  # no circle
        with pytest.raises(SurgeryError, match=r"a circle needs an odd kernel|has no ring"):
            convswap.plan_swap(model, unit, where="all", example_input=x)
        return
    plan = convswap.plan_swap(model, unit, where="all", example_input=x)
    assert [(row.path, row.start) for row in plan.replacements] == [("0", "exact")]
    swapped = plan.apply()
    assert len(swapped[0]._forward_pre_hooks) == (kind in HOOKED)
    assert not model[0]._forward_pre_hooks
    if unit == "conv":
        assert list(swapped.state_dict()) == list(model.state_dict())
        assert plan.replacements[0].macs_before == plan.replacements[0].macs_after
    fused = convswap.fuse(swapped, x)
    for size in ((17, 20), (18, 19), (16, 16), (9, 31)):  # the padding follows the map's size
        x = image(2, 4, *size)
        expected = model(x)
        for other in (swapped, fused, copy.deepcopy(swapped), pickle.loads(pickle.dumps(fused))):
            torch.testing.assert_close(other(x), expected, rtol=1e-4, atol=1e-5)


class Early(nn.Conv2d):
    """Puts the odd zero at the beginning."""

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = ((-(-n // 2) - 1) * 2 + 3 - n for n in x.shape[2:])
        x = F.pad(x, (columns - columns // 2, columns // 2, rows - rows // 2, rows // 2))
        return F.conv2d(x, self.weight, self.bias, self.stride)


class Ones(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), value=1.0), self.weight, self.bias, self.stride)


class Reflects(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), self.weight, self.bias, self.stride)


class Trains(nn.Conv2d):
    """Pads otherwise while it trains."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 2, 1, 2) if self.training else (1, 1, 1, 1)), self.weight, self.bias, self.stride)


class Twice(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + super().forward(x)


class Other(nn.Conv2d):
    """Convolves with another weight."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * 1, self.bias, self.stride)


class Unbiased(nn.Conv2d):
    """Forgets its bias."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, None, self.stride)


OTHERS = {
    "odd zero first": lambda: Early(4, 6, 3, stride=2),
    "ones": lambda: Ones(4, 6, 3),
    "reflection": lambda: Reflects(4, 6, 3),
    "mode": lambda: Trains(4, 6, 3),
    "sum": lambda: Twice(4, 6, 3),
    "weight": lambda: Other(4, 6, 3),
    "no bias": lambda: Unbiased(4, 6, 3),
    "remembers": lambda: Conv2dSameExport(4, 6, 3, stride=2),
    "standardised": lambda: StdConv2d(4, 6, 3),
    "norm": lambda: Wrapped(4, 6, 3, norm=nn.BatchNorm2d(6)),
    "activation": lambda: Wrapped(4, 6, 3, activation=F.relu),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_does_more_is_left(kind: str) -> None:
    conv = OTHERS[kind]().eval()
    state = copy.deepcopy(conv.__dict__)
    assert read_padding(conv) is None
    assert conv.__dict__.keys() == state.keys()
    assert list(conv._modules) == list(state["_modules"])
    with pytest.raises(SurgeryError, match=r"a subclass of nn.Conv2d that may behave otherwise"):
        convswap.plan_swap(nn.Sequential(conv), "circle_square", where="all")


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.booleans(),
)
def test_any_geometry(
    kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int], size: tuple[int, int], bias: bool
) -> None:
    conv = Conv2dSame(2, 3, kernel, stride, dilation=dilation, bias=bias).double().eval()
    found = read_padding(conv)
    assert found is not None
    x = image(1, 2, *size).double()
    plain = nn.Conv2d(**found.geometry.arguments()).double()
    plain.load_state_dict(conv.state_dict())
    padded = x if found.padding is None else found.padding.pad(x)
    assume(padded.shape[-1] > 0)
    torch.testing.assert_close(plain(padded), conv(x), rtol=1e-12, atol=1e-12)


def test_a_swap_in_place_that_fails_leaves_the_convolution_without_a_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(Conv2dSame(3, 4, 3, stride=2), nn.ReLU()).eval()
    seen: list[tuple[int, ...]] = []
    model[0].register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape)))
    conv, x = model[0], image(1, 3, 9, 9)
    plan = convswap.plan_swap(model, "circle", where="all", example_input=x)
    swapped = plan.apply()
    seen.clear()
    swapped(x)
    assert seen == [(1, 3, 9, 9)]  # the user's hook sees the map as before
    monkeypatch.setattr(type(swapped[0]), "forward", lambda self, x: nn.Conv2d.forward(self, x)[..., :2, :2])
    with pytest.raises(SurgeryError, match="circle gives output shapes"):
        plan.apply(inplace=True)
    assert model[0] is conv
    assert len(conv._forward_pre_hooks) == 1


def test_a_swapped_network_is_saved_and_swapped_again(tmp_path) -> None:
    torch.manual_seed(0)
    model = convswap.create_model("tf_efficientnet_lite0", num_classes=3).eval()
    x = image(1, 3, 65, 64)
    swapped = convswap.swap(model, "circle", where="*conv_dw&strided", example_input=x)
    units = [m for m in swapped.modules() if type(m).__name__ == "CircleConv2d"]
    assert len(units) == 4
    convswap.save(swapped, tmp_path / "it.safetensors")
    loaded = convswap.load(tmp_path / "it.safetensors").eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), swapped(x))
        again = convswap.swap(swapped, "conv", where="*conv_dw&strided", example_input=x)
        torch.testing.assert_close(again(x), model(x), rtol=1e-3, atol=1e-3)
    plan = convswap.plan_fuse(swapped, x)
    assert plan.count("fold") == sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert torch.export.export(plan.apply(), (x,)) is not None


def test_compiled_and_exported() -> None:
    model = convswap.swap(nn.Sequential(Conv2dSame(3, 4, 3, stride=2)).eval(), "circle", where="all")
    x = image(1, 3, 9, 10)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(x), model(x))
        torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), model(x))
