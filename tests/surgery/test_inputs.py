"""The forms in which an example is given, and the forms in which a model answers."""

from __future__ import annotations

import copy
from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import Plain, conv_bn, randomize
from torch import Tensor, nn

import convswap
from convswap.errors import FusionError, SurgeryError, UsageError
from convswap.measure import cost
from convswap.measure.costs.model import count_macs
from convswap.surgery.inputs import Inputs
from convswap.surgery.latency import measure_latency


def image(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


class UNet(nn.Module):
    """Called as a diffusion model is: a sample, a time and the states of a text."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up, self.time, self.text = conv_bn(4, 8), conv_bn(8, 4), nn.Linear(1, 8), nn.Linear(6, 8)

    def forward(self, sample: Tensor, timestep: Tensor | int, encoder_hidden_states: Tensor) -> dict[str, Tensor]:
        time = self.time(torch.as_tensor(timestep, dtype=sample.dtype).reshape(-1, 1) / 1000)
        text = self.text(encoder_hidden_states).mean(1)
        return {"sample": self.up(F.relu(self.down(sample)) + (time + text)[:, :, None, None])}


class ModelOutput(OrderedDict):
    """Keys and attributes, as transformers has it."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


class TwoTowers(nn.Module):
    """An image tower and a text tower, compared by their cosines."""

    def __init__(self) -> None:
        super().__init__()
        self.vision, self.words, self.scale = conv_bn(3, 8), nn.Embedding(11, 8), nn.Parameter(torch.tensor(2.0))

    def forward(self, input_ids: Tensor, pixel_values: Tensor, attention_mask: Tensor | None = None) -> ModelOutput:
        text = self.words(input_ids)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        text = (text * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        picture = F.relu(self.vision(pixel_values)).mean((2, 3))
        logits = self.scale.exp() * F.normalize(picture, dim=1) @ F.normalize(text, dim=1).T
        return ModelOutput(logits_per_image=logits, text=text, hidden=(picture, None))


class Batches(nn.Module):
    """Takes one dictionary, or one list of images."""

    def __init__(self) -> None:
        super().__init__()
        self.body = conv_bn(3, 4)

    def forward(self, batch: Any) -> list[Tensor]:
        images = batch["image"] if isinstance(batch, dict) else batch
        return [self.body(each[None] if each.dim() == 3 else each) for each in images]


Pair = namedtuple("Pair", "left right")


class Stereo(Batches):
    def forward(self, pair: Pair) -> Pair:
        return Pair(self.body(pair.left), self.body(pair.right))


UNET = {"sample": image(2, 4, 8, 8), "timestep": torch.tensor(7), "encoder_hidden_states": image(2, 3, 6)}
CLIP = {"input_ids": torch.tensor([[1, 2, 3], [4, 5, 0]]), "pixel_values": image(2, 3, 8, 8)}
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])

FORMS: dict[str, tuple[Callable[[], nn.Module], Any, int]] = {
    "tensor": (Plain, image(2, 3, 8, 8), 2),
    "tuple": (UNet, tuple(UNET.values()), 2),
    "number": (UNet, (UNET["sample"], 7, UNET["encoder_hidden_states"]), 2),
    "keywords": (UNet, UNET, 2),
    "two towers": (TwoTowers, CLIP, 1),
    "batch encoding": (TwoTowers, UserDict(CLIP | {"attention_mask": MASK}), 1),
    "list of images": (Batches, [image(3, 8, 8), image(3, 6, 9)], 1),
    "one dictionary": (Batches, {"image": [image(3, 8, 8)]}, 1),
    "named tuple": (Stereo, Pair(image(1, 3, 8, 8), image(1, 3, 8, 8)), 1),
    "function": (TwoTowers, lambda: CLIP, 1),
}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> tuple[nn.Module, Any, int]:
    torch.manual_seed(0)
    build, example, folds = FORMS[request.param]
    return randomize(build()), example, folds


def test_fuse_takes_any_form(form: tuple[nn.Module, Any, int]) -> None:
    """All but a tensor were refused: "example_input must be one tensor"."""
    model, example, folds = form
    plan = convswap.plan_fuse(model, example)
    assert plan.count("fold") == folds
    assert plan.precision == "float64"
    assert plan.difference < 1e-12


def test_swap_takes_any_form(form: tuple[nn.Module, Any, int]) -> None:
    model, example, _ = form
    plan = convswap.plan_swap(model, "circle", where="3x3", example_input=example)
    assert all(row.start == "exact" and row.macs_before for row in plan.replacements)
    swapped = plan.apply()
    assert isinstance(swapped, type(model))
    fused = convswap.plan_fuse(swapped, example)
    assert fused.count("unit") == len(plan.replacements)


def test_costs_and_latency_take_any_form(form: tuple[nn.Module, Any, int]) -> None:
    """A dictionary or tuple gave an AttributeError."""
    model, example, folds = form
    found = cost(model, example)
    assert found.fuse_problem is None
    assert found.fused is not None
    assert found.counts.macs == found.fused.counts.macs > 0
    assert (found.counts.multiplications > found.fused.counts.multiplications) == (folds > 0)
    assert cost(model, example, mode="training", input_gradient=True).counts.macs > 2 * found.counts.macs
    images = Inputs.of(example, model).images
    assert count_macs(model, example) == found.counts.macs // images
    assert measure_latency({"it": model}, example, repeats=3, warmup=1)["it"].median_ms > 0


def test_the_given_tensors_stay_as_they_are(form: tuple[nn.Module, Any, int]) -> None:
    model, example, _ = form
    given = Inputs.of(example, model)
    before = copy.deepcopy(given.tensors)
    convswap.plan_fuse(model, example)
    cost(model, example, mode="training", input_gradient=True)
    for (path, old), (same, new) in zip(before, given.tensors, strict=True):
        assert path == same
        assert torch.equal(old, new)
        assert (old.dtype, new.grad, new.requires_grad) == (new.dtype, None, False)


def test_recalibration_takes_any_form() -> None:
    model = randomize(TwoTowers())
    mean = model.vision[1].running_mean.clone()
    convswap.recalibrate_batch_norm(model, [CLIP, CLIP])
    assert not torch.equal(model.vision[1].running_mean, mean)


class Loose(UNet):
    def forward(self, sample: Tensor, timestep: int = 3, **rest: Tensor) -> dict[str, Tensor]:
        return super().forward(sample, timestep, rest["encoder_hidden_states"])


def test_any_keyword_where_forward_takes_any() -> None:
    example = {name: UNET[name] for name in ("sample", "encoder_hidden_states")}
    assert convswap.plan_fuse(randomize(Loose()), example).count("fold") == 2


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ("picture.png", "example_input must hold a tensor, got str"),
        ((), "must hold a tensor, got tuple"),
        ({}, "must hold a tensor, got dict"),
        (lambda: 3, "must hold a tensor, got int"),
        (lambda: lambda: image(1), "must hold a tensor, got function"),
        (UNET | {"timestp": 3}, r"argument of UNet.forward 'timestp'; did you mean 'timestep'\? .*\(\{...\},\)"),
        ({"sample": image(2, 4, 8, 8)}, r"example_input lacks 'timestep', which UNet.forward needs"),
    ],
)
def test_what_is_no_example_is_refused_in_one_line(example: Any, message: str) -> None:
    model = randomize(UNet())
    for act in (
        lambda: convswap.plan_fuse(model, example),
        lambda: convswap.plan_swap(model, "circle", example_input=example),
        lambda: cost(model, example),
        lambda: measure_latency({"it": model}, example),
    ):
        with pytest.raises(UsageError, match=message) as caught:
            act()
        assert "\n" not in str(caught.value)


def test_a_list_for_several_arguments_gets_a_hint() -> None:
    for act, kind in (
        (convswap.plan_fuse, FusionError),
        (lambda m, x: convswap.plan_swap(m, "conv", example_input=x), SurgeryError),
    ):
        with pytest.raises(kind, match=r"missing 2 required .*a list is one argument; give a tuple for several"):
            act(randomize(UNet()), list(UNET.values()))


class Result:
    """An answer without any base class, with slots."""

    __slots__ = ("__weakref__", "boxes", "name", "next")

    def __init__(self, boxes: Tensor) -> None:
        self.boxes, self.name, self.next = boxes, "result", self


@dataclass
class Nested:
    first: Result
    rest: dict[str, list[Tensor]]


class Answers(nn.Module):
    """Gives what `wrap` makes of a map; the unit's fused form lies."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.body, self.wrap = conv_bn(3, 4), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.body(x))


WRAPS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "own class": (Result, ".boxes"),
    "nested": (lambda y: Nested(Result(y * 0), {"maps": [y * 0, y]}), ".rest['maps'][1]"),
    "model output": (lambda y: ModelOutput(loss=None, logits=y), "['logits']"),
    "tuple": (lambda y: (y.argmax(1) * 0, (y,)), "[1][0]"),
    "sparse": (lambda y: {"map": y.to_sparse()}, "['map']"),
}


@pytest.mark.parametrize("kind", WRAPS)
def test_any_form_of_output_is_compared_and_the_place_of_a_difference_is_named(kind: str) -> None:
    wrap, path = WRAPS[kind]
    model, x = randomize(Answers(wrap)), image(1, 3, 8, 8)
    assert convswap.plan_fuse(model, x).count("fold") == 1
    model.register_forward_hook(lambda module, args, output: wrap(module.body(args[0]) + torch.rand(4, 8, 8)))
    with pytest.raises(FusionError) as caught:
        convswap.plan_fuse(model, x)
    assert f" at output{path} (relative, float64), more than tolerance" in str(caught.value)


def test_an_output_without_a_tensor_is_refused() -> None:
    with pytest.raises(FusionError, match=r"holds no tensor elements to compare.*lower score threshold") as caught:
        convswap.plan_fuse(randomize(Answers(lambda y: {"found": [], "why": "nothing"})), image(1, 3, 8, 8))
    assert "\n" not in str(caught.value)


class OnlyNamed(nn.Module):
    """Calls its convolutions by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(input=self.a(input=x))


def test_a_convolution_that_is_called_by_keyword_is_seen() -> None:
    """The plan said "a pass over the example does not call it", and both were taken for the first."""
    plan = convswap.plan_swap(OnlyNamed().eval(), "circle", where="!first", example_input=image(1, 3, 9, 9))
    assert [(row.path, row.macs_before) for row in plan.replacements] == [("b", 4 * 4 * 9 * 25)]


class Picky(nn.Module):
    """Takes values from 0 to 1 only."""

    def __init__(self) -> None:
        super().__init__()
        self.body = conv_bn(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_exporting() and (x.min() < 0 or x.max() > 1):
            raise ValueError("values must be from 0 to 1")
        return self.body(x)


def test_a_model_that_takes_no_noise_is_proven_on_the_example_unless_that_is_constant() -> None:
    """It was refused: "the model does not accept the example input"."""
    model = randomize(Picky())
    assert convswap.plan_fuse(model, image(1, 3, 8, 8).sigmoid()).count("fold") == 1
    with pytest.raises(FusionError, match=r"the example input is constant, which proves nothing, .* from 0 to 1"):
        convswap.plan_fuse(model, torch.zeros(1, 3, 8, 8))


def test_macs_are_per_image_whatever_the_form() -> None:
    """An image without a batch raised "Invalid channel dimensions"."""
    conv = nn.Sequential(nn.Conv2d(3, 4, 3)).eval()
    expected = 4 * 3 * 9 * 36
    for example in (image(1, 3, 8, 8), image(5, 3, 8, 8), image(3, 8, 8)):
        (row,) = convswap.plan_swap(conv, "circle", where="all", example_input=example).replacements
        assert row.macs_before == expected
    body = 4 * 3 * 9
    images, maps = [image(3, 8, 8), image(3, 6, 6)], [image(2, 3, 8, 8), image(2, 3, 6, 6)]
    for example, macs in ((images, body * (64 + 36) // 2), (maps, body * (64 + 36))):
        (row,) = convswap.plan_swap(Batches().eval(), "circle", where="all", example_input=example).replacements
        assert row.macs_before == macs
        assert count_macs(Batches(), example) == macs


@pytest.mark.parametrize(
    "surgery", [lambda m, x: convswap.plan_swap(m, "ic", where="all", example_input=x), convswap.plan_fuse]
)
def test_a_forward_that_fails_is_shown_with_the_line_of_its_owner(surgery: Any) -> None:
    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(9, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.conv(x).mean((2, 3)))

    with pytest.raises(
        (SurgeryError, FusionError),
        match=r"cannot be multiplied.*\(.*test_inputs.py, line \d+, in forward: return self",
    ):
        surgery(Mine().eval(), torch.randn(1, 3, 8, 8))
