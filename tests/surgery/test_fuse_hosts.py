"""Fusing hosts whose modules have several names or places, or that no fusion can take."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from networks import Plain, conv_bn, randomize
from torch import Tensor, nn

import convswap
from convswap.errors import FusionError, SurgeryError
from convswap.surgery.steps import SummedElsewhere


def image(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


class Levels(nn.Module):
    """One convolution for three levels of a pyramid, each with a BatchNorm of its own."""

    def __init__(self) -> None:
        super().__init__()
        conv = nn.Conv2d(8, 8, 3, padding=1)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.convs = nn.ModuleList([conv] * 3)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(3))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        return [
            norm(conv(F.avg_pool2d(x, 2**i))) for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True))
        ]


@pytest.mark.parametrize(
    "unit", ["conv", "circle", "ic", "niff", "dendritic", "quantized", "quantized_stochastic", "xnor"]
)
def test_one_object_under_several_names_takes_no_batch_norm(unit: str) -> None:
    """The units that fold a BatchNorm folded the last one into all levels: fuse was 0.3 to 2.8 off and refused."""
    torch.manual_seed(0)
    model, x = randomize(Levels()), image(1, 3, 16, 16)
    swapped = convswap.swap(model, unit, where="convs.0", example_input=x).eval()
    plan = convswap.plan_fuse(swapped, x)
    assert plan.count("fold") == 0
    assert {path for path, _ in plan.skipped} == {"norms.0", "norms.1", "norms.2"}


class Listed(nn.Module):
    """Keeps its layers in a plain list too, and calls them from there."""

    def __init__(self, nested: bool) -> None:
        super().__init__()
        self.a, self.b, self.c = conv_bn(3, 8), nn.ReLU(), conv_bn(8, 8)
        layers = [*self.a, self.b, *self.c]
        self.steps = {"all": [(layer,) for layer in layers]} if nested else layers

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.steps["all"] if isinstance(self.steps, dict) else self.steps:
            x = (layer[0] if isinstance(layer, tuple) else layer)(x)
        return x


@pytest.mark.parametrize("nested", [False, True])
def test_layers_in_a_plain_list_are_left_and_said(nested: bool) -> None:
    """Folding changed the convolution while the list still called its BatchNorm: 94 % off, the whole model refused."""
    model = randomize(Listed(nested))
    plan = convswap.plan_fuse(model, image(1, 3, 8, 8))
    assert plan.steps == ()
    assert plan.skipped == tuple(
        (path, "it also stands in steps, outside of the module tree; use nn.ModuleList or nn.ModuleDict")
        for path in ("a.1", "c.1")
    )
    with pytest.raises(SurgeryError, match="it also stands in steps, outside of the module tree"):
        convswap.swap(model, "circle", where="all")


class Twice(nn.Module):
    """Holds its layers under two names, as the blocks of nnU-Net do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.all_modules = nn.Sequential(self.conv, self.norm, nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.all_modules(x)


def test_a_second_name_does_not_make_a_module_unreached() -> None:
    plan = convswap.plan_fuse(randomize(Twice()), image(1, 3, 8, 8))
    assert plan.count("fold") == 1
    assert plan.skipped == ()
    fused = plan.apply()
    assert fused.conv is fused.all_modules[0]
    assert isinstance(fused.norm, nn.Identity)


class Accumulates(nn.Module):
    """Sums its branches in place, the smaller kernel first."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large, self.skip = conv_bn(4, 4, 1), conv_bn(4, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.small(x)
        y += self.large(x)
        y += self.skip(x)
        return F.relu(y)


def test_a_sum_in_place_keeps_its_first_term() -> None:
    model, x = randomize(Accumulates()), image(2, 4, 8, 8)
    plan = convswap.plan_fuse(model, x)
    fused = plan.apply()
    assert plan.count("merge") == 1
    assert tuple(fused.small[0].kernel_size) == (3, 3)
    assert isinstance(fused.large[0], SummedElsewhere)
    torch.testing.assert_close(fused(x), model(x), rtol=1e-4, atol=1e-5)


def test_ghostnetv3_merges_all_of_its_branches() -> None:
    """The zero of a merged branch met the host's `+=`, its own method was blamed, and 32 BatchNorms were left."""
    torch.manual_seed(0)
    model = randomize(timm.create_model("ghostnetv3_100", num_classes=4))
    plan = convswap.plan_fuse(model, image(1, 3, 64, 64))
    assert plan.count("block") == 16
    assert plan.skipped == ()
    assert plan.difference < 1e-9
    assert not any(isinstance(module, nn.BatchNorm2d) for module in plan.apply().modules())


class Mergeable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.merged = nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 3, 1, bias=False), False

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) if self.merged else self.a(x) + self.b(x)

    def switch_to_deploy(self) -> None:
        self.a.weight.data += self.b.weight.data
        self.merged = True
        del self.b


class Fragile(nn.Module):
    """Reads the shape of one branch, so that a merged sum changes its function."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.block = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1), Mergeable()

    def forward(self, x: Tensor) -> Tensor:
        b = self.b(x)
        return self.block(self.a(x) + b) * b.shape[-1]


def test_what_broke_the_function_is_blamed_and_nothing_else() -> None:
    model, x = Fragile().eval(), image(1, 3, 8, 8)
    plan = convswap.plan_fuse(model, x)
    assert plan.count("block") == 1
    assert plan.count("merge") == 0
    (why,) = [reason for path, reason in plan.skipped if path == "(the model)"]
    assert "merging summed convolutions, or pooling first, changes the output" in why
    assert not any("switch_to_deploy" in reason for _, reason in plan.skipped)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_traced_and_scripted_models_are_refused() -> None:
    x = image(1, 3, 8, 8)
    for model in (torch.jit.trace(randomize(Plain()), x), torch.jit.script(randomize(Plain()))):
        for surgery in (convswap.plan_fuse, lambda m, x: convswap.plan_swap(m, "circle", example_input=x)):
            with pytest.raises(SurgeryError, match="swap or fuse the eager model, then script or trace it"):
                surgery(model, x)


def test_a_module_without_weights_is_refused_and_stays_lazy() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LazyConv2d(4, 3)).eval()
    with pytest.raises(SurgeryError, match="1 is a LazyConv2d without weights yet; run the model once"):
        convswap.plan_fuse(model, image(1, 3, 8, 8))
    with pytest.raises(SurgeryError, match="1 is a LazyConv2d without weights yet; run the model once"):
        convswap.plan_swap(model, "circle", where="all", example_input=image(1, 3, 8, 8))
    assert type(model[1]) is nn.LazyConv2d


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = conv_bn(3, 4)
        self.phase = nn.Conv2d(4, 4, 3, dtype=torch.complex64)

    def forward(self, x: Tensor) -> Tensor:
        return self.phase(torch.complex(self.body(x), self.body(x)))


def test_complex_convolutions_are_left_and_said() -> None:
    """They ended in "generator raised StopIteration", and a fusion cast their imaginary part away."""
    model, x = randomize(Complex()), image(1, 3, 8, 8)
    plan = convswap.plan_swap(model, "ic", where="all", example_input=x)
    assert [(s.path, s.reason) for s in plan.skipped] == [("phase", "its weight is complex (torch.complex64)")]
    with torch.no_grad():
        torch.testing.assert_close(plan.apply()(x), model(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(convswap.fuse(model, x)(x), model(x), rtol=1e-5, atol=1e-5)


def test_an_example_of_another_precision_is_taken_as_it_is_meant() -> None:
    assert convswap.plan_fuse(randomize(Plain()), image(1, 3, 8, 8).double()).count("fold") == 2
    with pytest.raises(FusionError, match="does not accept the example input"):
        convswap.plan_fuse(randomize(Plain()), image(1, 4, 8, 8))
