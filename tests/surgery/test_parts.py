"""Where the whole network cannot be exported, its largest parts are read, and nothing reaches the terminal."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision
from networks import DataDependent, RepBlock, conv_bn, randomize
from torch import Tensor, nn

import convswap
from convswap.errors import FusionError


def image(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


class Branches(nn.Module):
    """Control flow on values, between parts that each can be exported."""

    def __init__(self, part: nn.Module, channels: int = 8) -> None:
        super().__init__()
        self.stem, self.part = conv_bn(3, channels), part

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.part(x) if x.sum().item() > -1 else x


class Direct(nn.Module):
    """Holds its layers itself and cannot be exported."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.idle = nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), conv_bn(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        return y * 2 if y.sum().item() > 0 else y


def test_parts_are_folded_and_merged() -> None:
    """0 of 4 norms were folded."""
    plan = convswap.plan_fuse(randomize(Branches(RepBlock(8, 8))), image(2, 3, 9, 9))
    assert [step[:2] for step in plan.steps if step[0] == "fold"] == [
        ["fold", "stem.0"],
        ["fold", "part.rbr_dense.conv"],
        ["fold", "part.rbr_1x1.conv"],
    ]
    merged = ["part.rbr_dense.conv", "part.rbr_1x1.conv", "part.rbr_identity"]
    assert [step[1] for step in plan.steps if step[0] == "merge"] == [merged]
    assert plan.difference < 1e-12
    assert plan.skipped == (("(the model)", plan.skipped[0][1]),)
    assert plan.skipped[0][1].startswith("only parts of it were looked into: torch.export cannot read the model: Could")


def test_what_was_not_looked_into_is_said_in_one_line_each() -> None:
    plan = convswap.plan_fuse(randomize(Branches(Direct())), image(2, 3, 9, 9))
    assert plan.count("fold") == 1
    reasons = dict(plan.skipped)
    assert reasons["part"].startswith("only parts of it were looked into: torch.export cannot read the model")
    assert reasons["part.norm"] == "it stands directly in part, which cannot be exported"
    assert reasons["part.idle.1"] == "a pass over the example does not call it"
    assert not any("\n" in reason for reason in reasons.values())


@pytest.mark.parametrize("build", [DataDependent, lambda: Branches(Direct())])
def test_a_failed_export_prints_nothing(build: type[nn.Module], capfd: pytest.CaptureFixture[str]) -> None:
    """torch printed the whole graph to stderr, once or twice."""
    plan = convswap.plan_fuse(randomize(build()), image(2, 3, 9, 9))
    assert plan.count("fold") == 1
    assert capfd.readouterr() == ("", "")


class Levels(nn.Module):
    """A head that runs on maps of several sizes, as behind a feature pyramid."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        while min(x.shape[2:]) > 3 and x.sum().item() > -1e9:
            found.append(self.head(x))
            x = F.avg_pool2d(x, 2)
        return found


class BySize(nn.Module):
    """Uses its convolution otherwise where the map is small."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.more = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), conv_bn(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.more(self.norm(y) if x.shape[-1] > 8 else y)


def test_a_head_that_runs_on_several_sizes() -> None:
    plan = convswap.plan_fuse(
        randomize(Levels(nn.Sequential(conv_bn(3, 4), nn.ReLU(), conv_bn(4, 4)))), image(2, 3, 16, 17)
    )
    assert plan.count("fold") == 2
    assert plan.difference < 1e-12


def test_only_what_all_calls_of_a_part_agree_on_is_folded() -> None:
    plan = convswap.plan_fuse(randomize(Levels(BySize())), image(2, 3, 16, 16))
    assert plan.steps == (["fold", "head.more.0", "head.more.1"],)
    assert ("head.norm", "calls of it differ") in plan.skipped


class Borrowed(nn.Module):
    """Calls a convolution inside its part, and once more by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.part = conv_bn(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.part(x)
        return y if y.sum().item() > 1e9 else y + self.part[0](x)


def test_a_module_that_is_called_from_outside_its_part_is_left() -> None:
    plan = convswap.plan_fuse(randomize(Borrowed()), image(2, 3, 8, 8))
    assert plan.steps == ()
    assert ("part.1", "calls of it differ") in plan.skipped


class Reads(Borrowed):
    """Reads the convolution's weight, which no graph of a part shows."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.part(x)
        return y if y.sum().item() > 1e9 else y + self.part[0].weight.sum()


def test_parts_are_given_up_where_the_proof_fails() -> None:
    plan = convswap.plan_fuse(randomize(Reads()), image(2, 3, 8, 8))
    assert plan.steps == ()
    assert plan.skipped[1][0] == "(the model)"
    assert plan.skipped[1][1].startswith("folding in parts changes the output by")


TINY = {"weights": None, "weights_backbone": None, "num_classes": 3, "min_size": 64, "max_size": 64}


def test_a_detector_is_folded_and_proven_on_its_detections() -> None:
    """0 of 46 norms were folded."""
    torch.manual_seed(0)
    model = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        **TINY, box_score_thresh=0.0, box_detections_per_img=20
    )
    images = [image(3, 64, 48).sigmoid(), image(3, 48, 64).sigmoid()]
    plan = convswap.plan_fuse(randomize(model), images)
    assert plan.count("fold") == 46 == sum("BatchNorm" in type(m).__name__ for m in model.modules())
    assert plan.precision == "float64"
    with torch.no_grad():
        assert [len(found["scores"]) for found in model(images)] == [20, 20]
    swapped = convswap.plan_swap(model, "circle", where="backbone.*&3x3", example_input=images).apply()
    torch.testing.assert_close(swapped(images), model(images), rtol=1e-3, atol=1e-3)


def test_a_detector_that_finds_nothing_proves_nothing() -> None:
    model = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(**TINY, box_score_thresh=0.99).eval()
    with pytest.raises(FusionError, match=r"holds no tensor elements to compare.*a lower score threshold"):
        convswap.plan_fuse(model, [image(3, 64, 48).sigmoid()])


def test_a_segmentation_network_answers_with_a_dictionary() -> None:
    torch.manual_seed(0)
    model = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3
    )
    plan = convswap.plan_fuse(randomize(model), image(1, 3, 64, 64))
    assert plan.count("fold") == 47
    assert plan.skipped == ()
