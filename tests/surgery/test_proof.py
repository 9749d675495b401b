"""What a swap promises is proven on the example, and what it cannot promise is left alone and said."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from networks import DataDependent, Plain, conv_bn, randomize
from torch import Tensor, nn

import convswap
from convswap.errors import SurgeryError, UsageError
from convswap.units import FeatureUnit, PlainConv2d, register_unit
from convswap.units.circle.circle import CircleConv2d
from convswap.units.contract import registry


def image(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / a.abs().max()).item()


class Liar(FeatureUnit):
    """Declares an exact start and doubles its output; `only_below` lets the truth pass where the map is that large."""

    def setup(self, *, truth_from: int = 1000) -> None:
        self.conv = nn.Conv2d(**self.geometry.arguments(), **self.place)
        self.truth_from = truth_from

    weight = property(lambda self: self.conv.weight)
    bias = property(lambda self: self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.shape[-1] >= self.truth_from else 2 * self.conv(x)


@pytest.fixture
def liar() -> Iterator[str]:
    register_unit(
        "liar", paper="none", year=2026, summary="lies", warm_start="exact", fusion="none",
        default_where="all",
    )(Liar)  # fmt: skip
    yield "liar"
    del registry._UNITS["liar"]


@pytest.mark.parametrize("inplace", [False, True])
def test_a_unit_that_lies_about_its_start_is_refused(liar: str, inplace: bool) -> None:
    model = randomize(Plain())
    modules, state = list(model.modules()), copy.deepcopy(model.state_dict())
    plan = convswap.plan_swap(model, liar, where="conv*", example_input=image(1, 3, 16, 16))
    with pytest.raises(SurgeryError) as caught:
        plan.apply(inplace=inplace)
    for part in ("unit 'liar' declares an exact start", "at conv2", "by 1.0e+00", 'warm_start="approximate"'):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(a is b for a, b in zip(modules, model.modules(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(state.values(), model.state_dict().values(), strict=True))


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_of_exact_starts_is_compared_too(liar: str, inplace: bool, dtype: torch.dtype) -> None:
    """The window of the first place tells the truth; the network does not."""
    model = randomize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())).to(dtype)
    conv, x = model[0], image(1, 3, 6, 6).to(dtype)
    model[0].register_forward_pre_hook(lambda module, args: (F.pad(args[0], (3, 3, 3, 3)),))
    plan = convswap.plan_swap(model, liar, truth_from=8, example_input=x)
    assert plan.apply() is not None  # the hook's map is wide enough everywhere
    model[0]._forward_pre_hooks.clear()
    with pytest.raises(SurgeryError, match=r"declares an exact start, but at 0 .* by 1.0e\+00"):
        plan.apply(inplace=inplace)
    assert model[0] is conv


class Cached(nn.Module):
    """Reads a weight where no pass can see it: it was taken when the model was built."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.stem(x))
        return y * (2.0 if isinstance(self.conv, CircleConv2d) else 1.0)


@pytest.mark.parametrize("inplace", [False, True])
def test_a_host_that_treats_a_unit_otherwise_is_refused(inplace: bool) -> None:
    model = Cached().eval()
    conv = model.conv
    plan = convswap.plan_swap(model, "circle", where="conv", example_input=image(1, 3, 9, 9))
    with pytest.raises(SurgeryError, match=r"exact start at every place .* differs by 1.0e\+00 \(relative, float64\)"):
        plan.apply(inplace=inplace)
    assert model.conv is conv
    assert "_convswap_history" not in model.__dict__


def test_a_failed_swap_in_place_leaves_the_given_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model = randomize(Plain())
    conv = model.conv1
    plan = convswap.plan_swap(model, "circle", where="conv1", example_input=image(1, 3, 8, 8))
    monkeypatch.setattr(CircleConv2d, "forward", lambda self, x: nn.Conv2d.forward(self, x)[..., :4, :4])
    with pytest.raises(SurgeryError, match="conv1: circle gives output shapes"):
        plan.apply(inplace=True)
    assert model.conv1 is conv


def test_only_a_warm_start_with_an_example_is_proven_and_the_plan_says_so(liar: str) -> None:
    model = randomize(Plain())
    plan = convswap.plan_swap(model, liar)
    assert "an exact start is what the unit declares" in str(plan)
    assert isinstance(plan.apply().conv1, Liar)
    with_example = convswap.plan_swap(model, liar, example_input=image(1, 3, 8, 8), start="fresh")
    assert with_example.notes == ()
    assert isinstance(with_example.apply().conv1, Liar)


def test_a_proof_draws_no_numbers_of_its_own() -> None:
    model, x = randomize(Plain()), image(1, 3, 8, 8)
    states = []
    for example in (None, x):
        torch.manual_seed(0)
        convswap.plan_swap(model, "circle", where="3x3", example_input=example).apply()
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_an_example_of_zeros_proves_too(liar: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False)).eval()
    with pytest.raises(SurgeryError, match="declares an exact start, but at 0"):
        convswap.swap(model, liar, example_input=torch.zeros(1, 3, 8, 8))


class Dilated(nn.Module):
    """The same kernel at two dilations."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.c(x) + F.conv2d(x, self.c.weight, padding=2, dilation=2)


class CentralDifference(Dilated):
    """A convolution minus its kernel's mean response (CDCN, neuraloperator)."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.c(x) - 0.7 * F.conv2d(x, self.c.weight.sum((2, 3), keepdim=True))


class Demodulated(Dilated):
    """Divides by the kernel's norm, as StyleGAN does."""

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.stem(x)) / self.c.weight.square().sum((1, 2, 3)).sqrt()[None, :, None, None]


@pytest.mark.parametrize("known", [True, False], ids=["example", "no example"])
@pytest.mark.parametrize("network", [Dilated, CentralDifference, Demodulated])
def test_a_convolution_whose_weight_is_read_is_left(network: type[nn.Module], known: bool) -> None:
    """The plan said "exact", and outputs were 17 to 100 % off."""
    model, x = nn.Sequential(network()).eval(), image(2, 3, 16, 16)
    operator = {"Dilated": "convolution", "CentralDifference": "sum", "Demodulated": "pow"}[network.__name__]
    plan = convswap.plan_swap(model, "circle_square", where="all", example_input=x if known else None)
    assert [row.path for row in plan.replacements] == ["0.stem"]
    (skip,) = plan.skipped
    assert skip.path == "0.c"
    assert skip.reason == f"its weight is read besides its own call, in '0' ({network.__name__}) by {operator}"
    with torch.no_grad():
        assert relative(model(x), plan.apply()(x)) < 1e-5


def test_what_cannot_be_seen_is_said() -> None:
    plan = convswap.plan_swap(DataDependent(), "circle", where="!first, all")
    assert any(
        note.startswith("the data flow cannot be seen (")
        and note.endswith("first and output are taken in definition order; what else reads the weights is not known")
        for note in plan.notes
    )


class Integral(nn.Module):
    """A constant expectation as a frozen convolution, behind the heads of a detector (YOLO's DFL)."""

    def __init__(self, bins: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(bins, 1, 1, bias=False).requires_grad_(False)
        self.conv.weight.data[:] = torch.arange(bins, dtype=torch.float32).view(1, bins, 1, 1)
        self.bins = bins

    def forward(self, x: Tensor) -> Tensor:
        n, _, anchors = x.shape
        return self.conv(x.view(n, 4, self.bins, anchors).transpose(2, 1).softmax(1)).view(n, 4, anchors)


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.more = conv_bn(3, 8), conv_bn(8, 8)
        self.boxes, self.scores, self.dfl = nn.Conv2d(8, 32, 1), nn.Conv2d(8, 5, 1), Integral()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.relu(self.more(F.relu(self.body(x))))
        raw = self.boxes(x).flatten(2)
        return self.dfl(raw), self.scores(x).sigmoid(), raw


@pytest.mark.parametrize("unit", ["binary_weight", "xnor", "quantized", "ghost", "niff", "dendritic"])
@pytest.mark.parametrize("where", [None, "all"])
def test_a_frozen_integral_is_left_unless_the_start_is_exact(unit: str, where: str | None) -> None:
    """Every box was decoded wrong, and the plan did not say a word."""
    torch.manual_seed(0)
    model, x = randomize(Detector()), image(1, 3, 16, 16)
    plan = convswap.plan_swap(model, unit, where=where, example_input=x)
    assert not any(row.path.startswith("dfl") for row in plan.replacements)
    if where == "all":
        (reason,) = [skip.reason for skip in plan.skipped if skip.path == "dfl.conv"]
        assert "it is frozen, and" in reason or convswap.get_unit(unit).cls.supports(model.dfl.conv)
    dfl = plan.apply().eval().dfl
    sharp = torch.full((1, 32, 1), -30.0)
    for side in range(4):
        sharp[0, side * 8 + side + 2] = 30.0
    torch.testing.assert_close(dfl(sharp).flatten(), torch.tensor([2.0, 3.0, 4.0, 5.0]))
    assert not dfl.conv.weight.requires_grad


@pytest.mark.parametrize("unit", ["ic", "conv"])
def test_a_frozen_place_may_take_an_exact_start_and_stays_frozen(unit: str) -> None:
    model, x = randomize(Detector()), image(1, 3, 16, 16)
    swapped = convswap.swap(model, unit, where="all", example_input=x)
    assert type(swapped.dfl.conv) is convswap.get_unit(unit).cls
    assert not any(p.requires_grad for p in swapped.dfl.parameters())
    with pytest.raises(SurgeryError, match="it is frozen, and a ic there starts inexactly"):
        convswap.swap(model, "ic", where="dfl.conv", start="fresh", example_input=x)


def test_every_head_is_an_output_by_default() -> None:
    plan = convswap.plan_swap(randomize(Detector()), "binary_weight", example_input=image(1, 3, 16, 16))
    assert [row.path for row in plan.replacements] == ["more.0"]


class Renamed(nn.Conv2d):
    """Changes only how it is built."""

    def __init__(self, channels: int, kernel: int = 3) -> None:
        super().__init__(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)


class Weighs(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, weight * 2, bias)


class Scaled(Renamed):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("scale", torch.ones(()))


def test_a_subclass_that_changes_nothing_is_taken() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), Renamed(4), Weighs(4, 4, 3), Scaled(4)).eval(), image(1, 3, 9, 9)
    plan = convswap.plan_swap(model, "circle", where="all", example_input=x)
    assert [(row.path, row.start) for row in plan.replacements] == [("0", "exact"), ("1", "exact")]
    assert all("a subclass of nn.Conv2d" in skip.reason for skip in plan.skipped)
    assert [skip.path for skip in plan.skipped] == ["2", "3"]
    with torch.no_grad():
        assert relative(model(x), plan.apply()(x)) < 1e-5
        assert type(convswap.swap(model, "conv", where="1")[1]) is PlainConv2d


class Volumes(nn.Module):
    """Convolutions of every kind; one is held twice."""

    def __init__(self) -> None:
        super().__init__()
        self.flat = nn.Conv2d(3, 4, 3)
        self.deep = nn.ModuleList([nn.Conv3d(1, 1, 1), nn.Conv3d(1, 1, 1), nn.LazyConv3d(1, 1)])
        self.again = self.deep[0]
        self.up, self.line = nn.ConvTranspose2d(4, 4, 2), nn.LazyConv1d(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.flat(x))


@pytest.mark.parametrize("known", [True, False], ids=["example", "no example"])
def test_other_convolutions_are_counted(known: bool) -> None:
    """Nothing was said of them."""
    note = "left alone: 2 Conv3d, 1 ConvTranspose2d, 1 LazyConv1d, 1 LazyConv3d (units stand for Conv2d)"
    model = Volumes()
    if known:
        del model.deep[2], model.line
        note = "left alone: 2 Conv3d, 1 ConvTranspose2d (units stand for Conv2d)"
    plan = convswap.plan_swap(model, "circle", where="all", example_input=image(1, 3, 8, 8) if known else None)
    assert plan.notes[0] == note
    assert f"note: {note}" in str(plan)
    with pytest.raises(UsageError, match=r"matches nothing: .* no 2-d convolution .*; left alone: 2 Conv3d \("):
        convswap.plan_swap(nn.Sequential(nn.Conv3d(1, 1, 1), nn.Conv3d(1, 1, 1)), "circle", where="all")


def test_a_network_of_plain_convolutions_has_no_such_note() -> None:
    model = convswap.swap(Plain(), "circle", where="3x3")
    assert not any("left alone" in note for note in convswap.plan_swap(model, "ic", where="all").notes)


def test_a_lazy_convolution_is_left_and_the_fix_is_said() -> None:
    """The reason was "a subclass of nn.Conv2d that may behave otherwise"."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LazyConv2d(4, 3))
    plan = convswap.plan_swap(model, "circle", where="all")
    assert [(skip.path, skip.reason) for skip in plan.skipped] == [
        ("1", "it has no weights yet; run the model once on a real input first")
    ]
    assert isinstance(model[1], nn.LazyConv2d)


class Counting(Plain):
    """Counts the passes of all its copies."""

    passes = 0

    def forward(self, x: Tensor) -> Tensor:
        Counting.passes += 1
        return super().forward(x)


@pytest.mark.parametrize(("unit", "passes"), [("circle", 2), ("quantized", 3)])
def test_a_proof_of_exact_starts_costs_one_pass(unit: str, passes: int) -> None:
    """One pass gives the given model's output, one that of the swapped model. The copy had a third."""
    model = randomize(Counting())
    plan = convswap.plan_swap(model, unit, where="3x3", example_input=image(1, 3, 9, 9))
    Counting.passes = 0
    plan.apply()
    assert Counting.passes == passes
