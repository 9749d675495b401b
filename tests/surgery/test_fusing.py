"""Fusing: equality, what is refused, and the known mistakes of other tools."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from networks import (
    DataDependent,
    LyingBlock,
    Plain,
    PreActivation,
    RepBlock,
    SharedConvolution,
    TwoReaders,
    conv_bn,
    randomize,
)
from timm.layers import BatchNormAct2d, Conv2dSame, ScaledStdConv2d, StdConv2d
from torch import Tensor, nn

import convswap
from convswap.errors import FusionError, SurgeryError, UsageError
from convswap.surgery.steps import SummedElsewhere
from convswap.units import CircleConv2d


def image(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def assert_equal(model: nn.Module, fused: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        a, b = copy.deepcopy(model).double()(x.double()), copy.deepcopy(fused).double()(x.double())
    # the fused weights were rounded once to the model's own precision
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * a.abs().max().item())


def test_folds_by_data_flow_not_by_definition_order() -> None:
    model = randomize(Plain())
    x = image(2, 3, 9, 11)
    before = copy.deepcopy(model.state_dict())
    plan = convswap.plan_fuse(model, x)
    fused = plan.apply()
    assert plan.steps == (["fold", "conv1", "norm1"], ["fold", "conv2", "norm2"])
    assert plan.difference < 1e-13
    assert isinstance(fused.norm1, nn.Identity)
    assert fused.conv1.bias is not None
    assert_equal(model, fused, x)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert "2 batch norms" in str(plan)


def test_train_mode_is_refused_and_named() -> None:
    model = randomize(Plain())
    with pytest.raises(FusionError, match=r"the model is in train mode.*model\.eval\(\)"):
        convswap.fuse(model.train(), image(1, 3, 8, 8))
    model.eval().norm2.train()
    with pytest.raises(FusionError, match="norm2 is in train mode"):
        convswap.fuse(model, image(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (SharedConvolution, "used more than once"),
        (TwoReaders, "something else also reads"),
        (PreActivation, "reads the model's input"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)), "follows relu, not a convolution"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), "by the batch"),
        (lambda: nn.Sequential(StdConv2d(3, 4, 3), nn.BatchNorm2d(4)), "computed or shared weight"),
        (
            lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)),
            "computed or shared weight",
        ),
    ],
)
def test_what_must_not_be_folded_is_left_and_said(network: type[nn.Module], reason: str) -> None:
    model = randomize(network())
    x = image(2, 3, 8, 8)
    plan = convswap.plan_fuse(model, x)
    assert plan.count("fold") == 0
    assert any(reason in why for _, why in plan.skipped)
    assert reason in str(plan)
    assert_equal(model, plan.apply(), x)


def test_one_batch_norm_used_twice_is_left() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.norm = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.a(x)) * self.norm(self.b(x))

    plan = convswap.plan_fuse(randomize(Net()), image(2, 3, 8, 8))
    assert plan.count("fold") == 0
    assert plan.skipped[0] == ("norm", "it, or a parameter of it, is used more than once")


class Pyramid(nn.Module):
    """One head on maps of two sizes. `between` and `norm` may stand between its layers on the smaller map."""

    def __init__(self, *, between: nn.Module | None = None, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.norm, self.between, self.other = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), between, norm

    def forward(self, x: Tensor) -> list[Tensor]:
        y = self.conv(F.avg_pool2d(x, 2))
        y = y if self.between is None else self.between(y)
        return [self.norm(self.conv(x)), self.norm(y) if self.other is None else self.other(y)]


def test_a_pair_that_is_called_twice_is_folded_unless_its_calls_differ() -> None:
    """Heads behind a feature pyramid kept their norms: "it, or a parameter of it, is used more than once"."""
    plan = convswap.plan_fuse(randomize(Pyramid()), image(2, 3, 16, 16))
    assert plan.steps == (["fold", "conv", "norm"],)
    assert plan.difference < 1e-13
    assert convswap.plan_fuse(randomize(Pyramid(between=nn.ReLU())), image(2, 3, 16, 16)).steps == ()
    assert convswap.plan_fuse(randomize(Pyramid(between=nn.Conv2d(4, 4, 1))), image(2, 3, 16, 16)).steps == ()
    plan = convswap.plan_fuse(randomize(Pyramid(norm=nn.BatchNorm2d(4))), image(2, 3, 16, 16))
    assert plan.steps == ()
    assert {path for path, _ in plan.skipped} == {"norm", "other"}


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(3, 4, 3, bias=True), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False, eps=0.3)),
        nn.Sequential(nn.Conv2d(3, 6, 3, groups=3, dilation=2, padding=2), nn.BatchNorm2d(6)),
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), nn.BatchNorm2d(4)),
        nn.Sequential(Conv2dSame(3, 4, 3, stride=2), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(3, 4, 3), BatchNormAct2d(4, act_layer=nn.SiLU)),
        nn.ModuleDict({"a": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))})["a"],
    ],
    ids=["bias", "no affine", "groups", "reflect", "same", "Conv2dSame", "dropout", "BatchNormAct2d", "dict"],
)
def test_one_pair_of_many_kinds(model: nn.Module) -> None:
    model = randomize(model)
    x = image(2, 3, 9, 8)
    plan = convswap.plan_fuse(model, x)
    fused = plan.apply()
    assert plan.count("fold") == 1
    assert_equal(model, fused, x)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules()) or plan.count("fold") == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtype_is_kept_and_folding_is_rounded_once(dtype: torch.dtype) -> None:
    model = randomize(Plain()).to(dtype)
    fused = convswap.fuse(model, image(1, 3, 8, 8).to(dtype))
    assert {p.dtype for p in fused.parameters()} == {dtype}
    exact = convswap.fuse(copy.deepcopy(model).double(), image(1, 3, 8, 8).double())
    for a, b in zip(fused.parameters(), exact.parameters(), strict=True):
        assert torch.equal(a, b.to(dtype))


def test_fusing_twice_changes_nothing() -> None:
    once = convswap.fuse(randomize(Plain()), image(1, 3, 8, 8))
    plan = convswap.plan_fuse(once, image(1, 3, 8, 8))
    assert plan.steps == ()
    assert all(torch.equal(a, b) for a, b in zip(once.parameters(), plan.apply().parameters(), strict=True))


def test_units_fuse_to_plain_convolutions_also_at_the_root() -> None:
    model = randomize(Plain())
    x = image(2, 3, 9, 9)
    swapped = convswap.swap(model, "circle", where="3x3")
    fused = convswap.fuse(swapped, x)
    assert {type(m) for m in fused.modules() if isinstance(m, nn.Conv2d)} == {nn.Conv2d}
    assert_equal(model, fused, x)
    root = convswap.swap(nn.Conv2d(3, 4, 3).eval(), "circle", where="all")
    assert type(convswap.fuse(root, x)) is nn.Conv2d
    with pytest.raises(FusionError, match="itself one unit or block"):
        convswap.plan_fuse(root, x).apply(inplace=True)


def test_in_place() -> None:
    model = randomize(Plain())
    x = image(1, 3, 8, 8)
    expected = model(x)
    assert convswap.plan_fuse(model, x).apply(inplace=True) is model
    assert isinstance(model.norm1, nn.Identity)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


def test_hooks_on_a_folded_batch_norm_still_run() -> None:
    model = randomize(Plain())
    seen = []
    model.norm1.register_forward_hook(lambda *_: seen.append(1))
    fused = convswap.fuse(model, image(1, 3, 8, 8))
    seen.clear()
    fused(image(1, 3, 8, 8))
    assert seen == [1]


def test_parallel_branches_become_one_convolution() -> None:
    model = randomize(nn.Sequential(RepBlock(8, 8), RepBlock(8, 12, stride=2, groups=2, identity=False)))
    x = image(2, 8, 9, 7)
    plan = convswap.plan_fuse(model, x)
    fused = plan.apply()
    assert plan.count("merge") == 2
    assert sum(isinstance(m, nn.Conv2d) for m in fused.modules()) == 2
    assert sum(isinstance(m, SummedElsewhere) for m in fused.modules()) == 3
    assert_equal(model, fused, x)


class Sum(nn.Module):
    def __init__(self, a: nn.Module, b: nn.Module) -> None:
        super().__init__()
        self.a, self.b = a, b

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x)


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        (nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.Conv2d(4, 4, 1), "groups"),
        (nn.Conv2d(4, 4, 3, padding=2, dilation=2), nn.Conv2d(4, 4, 1), "dilated"),
        (nn.Conv2d(4, 4, 3, padding="same"), nn.Conv2d(4, 4, 1), "how they pad"),
        (nn.Conv2d(4, 1, 3, padding=1), nn.Conv2d(4, 4, 1), "output channels"),
    ],
)
def test_branches_that_cannot_be_merged_are_left_and_said(a: nn.Conv2d, b: nn.Conv2d, reason: str) -> None:
    model = Sum(a, b).eval()
    x = image(2, 4, 8, 8)
    plan = convswap.plan_fuse(model, x)
    assert plan.count("merge") == 0
    assert any(reason in why for _, why in plan.skipped)
    assert_equal(model, plan.apply(), x)


def test_branches_that_pad_by_reflection_read_another_tensor() -> None:
    model = Sum(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), nn.Conv2d(4, 4, 1)).eval()
    assert convswap.plan_fuse(model, image(2, 4, 8, 8)).steps == ()


def test_timm_blocks_merge_themselves_in_float64_too() -> None:
    import timm

    for name in ("repvgg_a0", "repvit_m0_9"):  # the second builds its merged convolution in the default dtype
        model = randomize(timm.create_model(name, num_classes=4)).double()
        plan = convswap.plan_fuse(model, image(1, 3, 64, 64).double())
        assert plan.count("block") > 0
        assert plan.difference < 1e-10
        assert plan.parameters_after < plan.parameters_before


def test_a_block_whose_own_method_changes_the_function_is_not_believed() -> None:
    model = LyingBlock().eval()
    x = image(2, 3, 8, 8)
    plan = convswap.plan_fuse(model, x)
    assert plan.count("block") == 0
    assert "reparameterize() changes the output" in plan.skipped[0][1]
    assert_equal(model, plan.apply(), x)


def test_without_export_units_are_fused_and_the_rest_is_said() -> None:
    model = convswap.swap(randomize(DataDependent()), "circle", where="all")
    x = image(2, 3, 8, 8)
    plan = convswap.plan_fuse(model, x)
    assert plan.steps == (["unit", "body.0"], ["fold", "body.0", "body.1"])
    assert "only parts of it were looked into" in plan.skipped[0][1]
    assert_equal(model, plan.apply(), x)


def test_a_difference_above_the_tolerance_raises() -> None:
    class Random(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = conv_bn(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.body(x)
            return y + torch.rand_like(y)

    with pytest.raises(FusionError, match="more than tolerance=1e-09"):
        convswap.fuse(randomize(Random()), image(1, 3, 8, 8))


def test_missing_example_and_wrappers() -> None:
    with pytest.raises(FusionError, match="needs example_input="):
        convswap.fuse(randomize(Plain()))
    with pytest.raises(SurgeryError, match="DataParallel"):
        convswap.fuse(nn.DataParallel(Plain()), image(1, 3, 8, 8))


def test_recalibrating_before_fusing() -> None:
    model = randomize(Plain())
    batches = [image(8, 3, 8, 8) + i for i in range(3)]
    fused = convswap.fuse(model, batches[0], recalibrate=batches)
    expected = convswap.recalibrate_batch_norm(copy.deepcopy(model), batches)
    outputs = torch.cat([expected.conv1(b) for b in batches])
    torch.testing.assert_close(expected.norm1.running_mean, outputs.mean((0, 2, 3)), rtol=1e-4, atol=1e-4)
    assert expected.norm1.momentum == 0.1
    assert not expected.norm1.training
    assert_equal(expected, fused, batches[0])
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(SurgeryError, match="no batches"):
        convswap.recalibrate_batch_norm(model, [])
    assert all(torch.equal(a, b) for a, b in zip(state.values(), model.state_dict().values(), strict=True))


def test_standardised_convolutions_stay_as_they_are() -> None:
    model = nn.Sequential(ScaledStdConv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()
    assert convswap.plan_fuse(model, image(1, 3, 8, 8)).steps == ()


class Masked(nn.Module):
    """A lying block whose output has places that are not finite."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.block, self.value = LyingBlock(), value

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(x)
        mask = torch.zeros_like(y, dtype=torch.bool)
        mask[..., 0, 0] = True
        return y.masked_fill(mask, self.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_places_that_are_not_finite_do_not_hide_the_others(value: float) -> None:
    plan = convswap.plan_fuse(Masked(value).eval(), image(2, 3, 8, 8))
    assert plan.count("block") == 0
    assert plan.difference < 1e-12


@dataclass
class Answer:
    logits: Tensor


def test_outputs_in_a_dataclass_are_compared_and_no_output_is_an_error() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = LyingBlock()

        def forward(self, x: Tensor) -> Answer:
            return Answer(self.block(x))

    assert convswap.plan_fuse(Wrapped().eval(), image(2, 3, 8, 8)).count("block") == 0
    with pytest.raises(FusionError, match="no tensor elements to compare"):
        convswap.plan_fuse(randomize(Plain()), torch.zeros(0, 3, 8, 8))


def test_integer_and_boolean_outputs() -> None:
    class Decided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = conv_bn(3, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.body(x)
            return y.argmax(1), y > 0

    assert convswap.plan_fuse(randomize(Decided()), image(2, 3, 8, 8)).count("fold") == 1


def test_a_model_that_works_on_its_input_in_place() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = conv_bn(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x.sub_(0.5))

    x = image(2, 3, 8, 8).double()
    before = x.clone()
    assert convswap.plan_fuse(randomize(InPlace()), x).count("fold") == 1
    convswap.plan_swap(InPlace().double(), "circle", where="all", example_input=x)
    assert torch.equal(before, x)


def test_a_model_that_refuses_float64_is_compared_in_its_own_precision() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = conv_bn(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x.float() / 255)

    plan = convswap.plan_fuse(randomize(Fixed()), image(2, 3, 8, 8))
    assert plan.precision == "float32"
    assert plan.count("fold") == 1
    assert "in float32" in str(plan)


@pytest.mark.parametrize("example", [torch.zeros(1, 5, 8, 8), torch.zeros(3), torch.zeros(1, 3, 8, 8, device="meta")])
def test_an_example_the_model_does_not_accept(example: Tensor) -> None:
    with pytest.raises(FusionError, match="does not accept the example input of shape"):
        convswap.fuse(randomize(Plain()), example)
    with pytest.raises(UsageError, match="must hold a tensor, got str"):
        convswap.fuse(randomize(Plain()), "image")


def test_a_parameter_that_something_else_reads_is_left() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(x)) * self.norm.weight.sum() + self.conv.bias.sum()

    plan = convswap.plan_fuse(randomize(Reads()), image(2, 3, 8, 8))
    assert plan.count("fold") == 0
    assert "used more than once" in plan.skipped[0][1]


def test_what_the_example_does_not_reach_is_said() -> None:
    class BySize(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.large, self.small = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.large(self.conv(x)) if x.shape[-1] > 8 else self.small(self.conv(x))

    plan = convswap.plan_fuse(randomize(BySize()), image(2, 3, 16, 16))
    assert (
        "small",
        "the example does not reach it: the fusion is proven for inputs like the example only",
    ) in plan.skipped


def test_memory_format_is_kept() -> None:
    model = convswap.swap(randomize(Plain()).to(memory_format=torch.channels_last), "circle", where="3x3")
    fused = convswap.fuse(model, image(1, 3, 8, 8))
    assert fused.conv2.weight.is_contiguous(memory_format=torch.channels_last)


def test_recalibrating_reaches_the_norms_of_units() -> None:
    """`GaborBatchNorm2d` of the wavelet stem keeps an energy of its own and is no `_BatchNorm`."""
    torch.manual_seed(0)
    model = convswap.swap(convswap.create_model("resnet18", num_classes=3), "cmod", example_input=image(1, 3, 32, 32))
    (norm,) = (m for m in model.modules() if type(m).__name__ == "GaborBatchNorm2d")
    before = norm.running_energy.clone()
    convswap.recalibrate_batch_norm(model.eval(), [image(2, 3, 32, 32), 3 * image(2, 3, 32, 32)])
    assert norm.momentum == 0.1
    assert not torch.equal(norm.running_energy, before)
    once = norm.running_energy.clone()
    convswap.recalibrate_batch_norm(model, [image(2, 3, 32, 32), 3 * image(2, 3, 32, 32)])
    torch.testing.assert_close(norm.running_energy, once)


def lie(conv: nn.Conv2d, factor: float) -> nn.Conv2d:
    with torch.no_grad():
        conv.weight.mul_(factor)
    return conv


class LyingUnit(CircleConv2d):
    """Its fused form has another weight, which an input of zeros cannot tell."""

    factor = 2.0

    def fuse(self) -> nn.Conv2d:
        return lie(super().fuse(), self.factor)


class QuietLiar(nn.Module):
    """A block of two branches whose own method is wrong wherever its input is not zero."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)

    def fuse(self) -> nn.Module:
        return lie(copy.deepcopy(self.a), 1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x) - self.b.bias[:, None, None]


@pytest.fixture
def lying_unit(monkeypatch: pytest.MonkeyPatch) -> type[LyingUnit]:
    monkeypatch.setattr("convswap.surgery.fusing.is_unit", lambda module: isinstance(module, CircleConv2d))
    return LyingUnit


@pytest.mark.parametrize("example", ["zeros", "noise"])
def test_a_unit_that_lies_is_caught(lying_unit: type[LyingUnit], example: str) -> None:
    model = nn.Sequential(lying_unit(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    x = torch.zeros(1, 3, 8, 8) if example == "zeros" else image(1, 3, 8, 8)
    with pytest.raises(FusionError, match="the fused model differs by"):
        convswap.fuse(model, x)


@pytest.mark.parametrize("factor", [1 + 1e-8, 1 + 1e-6, 1 - 1e-7])
def test_a_unit_that_lies_a_little_is_caught(lying_unit: type[LyingUnit], factor: float) -> None:
    model = nn.Sequential(lying_unit(3, 4, 3, bias=False)).eval()
    model[0].factor = factor
    with pytest.raises(FusionError, match=f"differs by {abs(factor - 1):.0e}".replace("e-0", r"[.0]*e-0")):
        convswap.fuse(model, image(1, 3, 8, 8))
    assert convswap.plan_fuse(model, image(1, 3, 8, 8), tolerance=1e-5).difference == pytest.approx(
        abs(factor - 1), rel=1e-3
    )


@pytest.mark.parametrize("example", ["zeros", "noise"])
def test_a_block_that_lies_is_not_believed_whatever_the_example(example: str) -> None:
    model = nn.Sequential(QuietLiar(), nn.ReLU()).eval()
    x = torch.zeros(1, 3, 8, 8) if example == "zeros" else image(1, 3, 8, 8)
    plan = convswap.plan_fuse(model, x)
    assert plan.count("block") == 0
    assert "fuse() changes the output" in str(plan.skipped)
    assert_equal(model, plan.apply(), image(2, 3, 8, 8))


def test_noise_of_a_hundred_millionth_is_above_the_tolerance() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = conv_bn(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.body(x)
            return y + 1e-8 * torch.rand_like(y) * y.abs().max()

    with pytest.raises(FusionError, match="more than tolerance=1e-09"):
        convswap.fuse(randomize(Noisy()), image(1, 3, 8, 8))


def test_a_lie_is_caught_in_the_precision_of_a_model_that_refuses_float64(lying_unit: type[LyingUnit]) -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unit = lying_unit(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            if x.dtype == torch.float64:
                raise RuntimeError("no float64 here")
            return self.unit(x)

    model = Single().eval()
    model.unit.factor = 1 + 5e-4
    with pytest.raises(FusionError, match=r"relative, float32"):
        convswap.fuse(model, image(1, 3, 8, 8))
    model.unit.factor = 1 + 1e-5
    assert convswap.plan_fuse(model, image(1, 3, 8, 8)).precision == "float32"


def test_the_worst_of_several_outputs_counts(lying_unit: type[LyingUnit]) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.right, self.wrong = nn.Conv2d(3, 4, 3), lying_unit(3, 4, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"a": self.right(x), "b": self.wrong(x), "c": self.right(-x)}

    with pytest.raises(FusionError, match="the fused model differs by"):
        convswap.fuse(Two().eval(), image(1, 3, 8, 8))


@pytest.mark.parametrize("affine", [False, True])
def test_a_batch_norm_with_two_inputs_is_left_affine_or_not(affine: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
            self.norm = nn.BatchNorm2d(4, affine=affine)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.a(x)) * self.norm(self.b(x))

    model, x = randomize(Net()), image(2, 3, 8, 8)
    plan = convswap.plan_fuse(model, x)
    assert plan.count("fold") == 0
    assert plan.skipped[0] == ("norm", "it, or a parameter of it, is used more than once")
    assert_equal(model, plan.apply(), x)


@pytest.mark.parametrize("bias", [False, True])
def test_a_convolution_with_two_readers_of_its_weight_is_left_with_or_without_bias(bias: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1, bias=bias), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(self.conv(x).relu()))

    model, x = randomize(Net()), image(2, 3, 8, 8)
    plan = convswap.plan_fuse(model, x)
    assert plan.count("fold") == 0
    assert plan.skipped[0] == ("norm", "conv, or a parameter of it, is used more than once")
    assert_equal(model, plan.apply(), x)


def test_a_dilation_along_an_axis_of_one_tap_stands_in_no_way() -> None:
    model = Sum(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, (3, 1), padding=(1, 0), dilation=(1, 5))).eval()
    x = image(2, 4, 8, 8)
    plan = convswap.plan_fuse(model, x)
    assert plan.count("merge") == 1
    assert_equal(model, plan.apply(), x)


def test_recalibrating_forgets_what_was_gathered_in_training() -> None:
    model = randomize(Plain()).train()
    for _ in range(3):
        model(image(8, 3, 8, 8) * 5 + 2)
    batches = [image(8, 3, 8, 8) + i for i in range(3)]
    convswap.recalibrate_batch_norm(model.eval(), batches)
    outputs = torch.cat([model.conv1(b) for b in batches])
    torch.testing.assert_close(model.norm1.running_mean, outputs.mean((0, 2, 3)), rtol=1e-4, atol=1e-4)
    assert int(model.norm1.num_batches_tracked) == 3
