"""Definitions of robustness by hand: published parameters, single corruptions, scores, and a profile worked out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import convswap
from convswap.errors import UsageError
from convswap.measure.robustness import (
    ALEXNET_ERRORS,
    COMMON,
    HELD_OUT,
    Predictions,
    Sample,
    clean,
    corrupt,
    corruption_set,
    crop_diagonal,
    jpeg_sweep,
    mean_corruption_error,
    predict,
    relative_corruption_error,
    robustness,
    rotation,
    shift_line,
    stability,
)
from convswap.measure.robustness.parameters import PARAMETERS

# Copied from the benchmark's descriptions (make_cifar_c.py, make_imagenet_c.py), severities 1 to 5.
CIFAR = """
gaussian_noise .04 .06 .08 .09 .10
shot_noise 500 250 100 75 50
impulse_noise .01 .02 .03 .05 .07
defocus_blur .3,.4 .4,.5 .5,.6 1,.2 1.5,.1
glass_blur .05,1,1 .25,1,1 .4,1,1 .25,1,2 .4,1,2
motion_blur 6,1 6,1.5 6,2 8,2 9,2.5
zoom_blur 1.06,.01 1.11,.01 1.16,.01 1.21,.01 1.26,.01
snow .1,.2,1,.6,8,3,.95 .1,.2,1,.5,10,4,.9 .15,.3,1.75,.55,10,4,.9 .25,.3,2.25,.6,12,6,.85 .3,.3,1.25,.65,14,12,.8
frost 1,.2 1,.3 .9,.4 .85,.4 .75,.45
fog .2,3 .5,3 .75,2.5 1,2 1.5,1.75
brightness .05 .1 .15 .2 .3
contrast .75 .5 .4 .3 .15
elastic_transform 0,0,.08 .05,.2,.07 .08,.06,.06 .1,.04,.05 .1,.03,.03
pixelate .95 .9 .85 .75 .65
jpeg_compression 80 65 58 50 40
speckle_noise .06 .1 .12 .16 .2
gaussian_blur .4 .6 .7 .8 1
spatter .62,.1,.7,.7,.5,0 .65,.1,.8,.7,.5,0 .65,.3,1,.69,.5,0 .65,.1,.7,.69,.6,1 .65,.1,.5,.68,.6,1
saturate .3,0 .1,0 1.5,0 2,.1 2.5,.2
"""
IMAGENET = """
gaussian_noise .08 .12 .18 .26 .38
shot_noise 60 25 12 5 3
impulse_noise .03 .06 .09 .17 .27
defocus_blur 3,.1 4,.5 6,.5 8,.5 10,.5
glass_blur .7,1,2 .9,2,1 1,2,3 1.1,3,2 1.5,4,2
motion_blur 10,3 15,5 15,8 15,12 20,15
zoom_blur 1.11,.01 1.16,.01 1.21,.02 1.26,.02 1.31,.03
snow .1,.3,3,.5,10,4,.8 .2,.3,2,.5,12,4,.7 .55,.3,4,.9,12,8,.7 .55,.3,4.5,.85,12,8,.65 .55,.3,2.5,.85,12,12,.55
frost 1,.4 .8,.6 .7,.7 .65,.7 .6,.75
fog 1.5,2 2,2 2.5,1.7 2.5,1.5 3,1.4
brightness .1 .2 .3 .4 .5
contrast .4 .3 .2 .1 .05
elastic_transform 2,.7,.1 2,.08,.2 .05,.01,.02 .07,.01,.02 .12,.01,.02
pixelate .6 .5 .4 .3 .25
jpeg_compression 25 18 15 10 7
speckle_noise .15 .2 .35 .45 .6
gaussian_blur 1 2 3 4 6
spatter .65,.3,4,.69,.6,0 .65,.3,3,.68,.6,0 .65,.3,2,.68,.5,0 .65,.3,1,.65,1.5,1 .67,.4,1,.65,1.5,1
saturate .3,0 .1,0 2,0 5,.1 20,.2
"""


@pytest.mark.parametrize(("text", "which", "side"), [(CIFAR, 0, 32), (IMAGENET, 1, 244)])
def test_parameters_are_the_published_ones(text: str, which: int, side: int) -> None:
    rows = [line.split() for line in text.strip().splitlines()]
    assert tuple(row[0] for row in rows) == COMMON + HELD_OUT
    for name, *levels in rows:
        wanted = [tuple(float(value) for value in level.split(",")) for level in levels]
        if name == "elastic_transform":  # in parts of the side
            wanted = [tuple(side * value for value in level) for level in wanted]
        if name == "zoom_blur":  # numpy decides how many factors lie below the end
            wanted = [(len(np.arange(1, end, step)), step) for end, step in wanted]
        assert [tuple(level) for level in PARAMETERS[name][which]] == [pytest.approx(level) for level in wanted], name


def grey(value: int, side: int = 32, count: int = 1) -> Tensor:
    return torch.full((count, 3, side, side), value, dtype=torch.uint8)


def dot(side: int, value: int = 255) -> Tensor:
    """One bright pixel in the middle of a dark image."""
    images = torch.zeros(1, 1, side, side, dtype=torch.uint8)
    images[..., side // 2, side // 2] = value
    return images


def test_gaussian_blur_of_a_dot() -> None:
    """The outer product of exp(-i² / 2), cut at 4 deviations, whose values sum to one (deviation 1, ImageNet 1)."""
    line = np.exp(-0.5 * np.arange(-4, 5) ** 2.0)
    wanted = np.floor(255 * np.outer(line, line) / line.sum() ** 2)
    found = corrupt(dot(33), "gaussian_blur", 1, parameters="imagenet")[0, 0, 12:21, 12:21].numpy()
    assert np.array_equal(found, wanted.astype(np.uint8))


@pytest.mark.parametrize(("severity", "radius", "half"), [(1, 3, 1), (4, 8, 1), (5, 10, 2)])
def test_defocus_of_a_dot(severity: int, radius: int, half: int) -> None:
    """A disk of equal weights, smoothed by 3 taps up to a radius of 8 and by 5 beyond (deviation .1: not at all)."""
    sigma = 0.1 if severity == 1 else 0.5
    reach = radius + half
    taps = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2)
    taps /= taps.sum()
    disk = np.zeros((2 * reach + 1, 2 * reach + 1))
    for y in range(-radius, radius + 1):
        for x in range(-radius, radius + 1):
            disk[y + reach, x + reach] = float(x * x + y * y <= radius * radius)
    disk /= disk.sum()
    if radius in (8, 10):  # the grid ends at the radius and is mirrored there, so nothing is spread beyond it
        disk = np.pad(disk[half:-half, half:-half], half, mode="reflect")
    smooth = np.zeros_like(disk)
    for y in range(half, 2 * reach + 1 - half):
        for x in range(half, 2 * reach + 1 - half):
            window = disk[y - half : y + half + 1, x - half : x + half + 1]
            smooth[y, x] = (window * np.outer(taps, taps)).sum()
    found = corrupt(dot(65), "defocus_blur", severity, parameters="imagenet")[0, 0]
    middle = found[32 - reach : 33 + reach, 32 - reach : 33 + reach].numpy().astype(int)
    assert np.abs(middle - np.floor(255 * smooth)).max() <= 1
    assert int(found.sum()) == middle.sum()


def test_zoom_blur_keeps_a_plain_image_and_brightens_nothing() -> None:
    found = corrupt(grey(100, 33), "zoom_blur", 5, parameters="imagenet")
    assert found.unique().tolist() in ([99], [100], [99, 100])
    # The middle pixel stays in the middle under every zoom; what is around it moves outwards.
    ring = dot(33)
    assert int(corrupt(ring, "zoom_blur", 1, parameters="cifar")[0, 0, 16, 16]) > 100


def test_motion_blur_of_a_line_along_its_own_direction_changes_only_its_end() -> None:
    """A plain image stays; a dot becomes a streak of Gaussian weights from one side: exp(-i² / (2 sigma²))."""
    assert corrupt(grey(200), "motion_blur", 5, parameters="cifar").unique().tolist() in ([199], [200], [199, 200])
    streak = corrupt(dot(65), "motion_blur", 1, parameters="imagenet")[0, 0].flatten().double()
    weights = np.exp(-0.5 * (np.arange(21) / 3.0) ** 2)  # radius 10: 21 taps, deviation 3
    wanted = np.floor(255 * weights / weights.sum())
    kept = sorted(streak[streak > 0].tolist(), reverse=True)
    # Two steps of the streak may fall on one pixel; the largest weight stands alone or with the next one.
    assert sum(kept) == pytest.approx(255, abs=12)
    assert kept[0] in (wanted[0], wanted[0] + wanted[1], wanted[0] + wanted[1] + 1)


def test_speckle_grows_with_the_brightness() -> None:
    """x + x N(0, .2): black stays black, and 100 spreads by 20 before it is cut off."""
    assert int(corrupt(grey(0), "speckle_noise", 5, parameters="cifar").max()) == 0
    found = corrupt(grey(100, 64), "speckle_noise", 5, parameters="cifar").double()
    assert float(found.std()) == pytest.approx(20, rel=0.03)
    assert float(found.mean()) == pytest.approx(99.5, abs=0.5)


def test_frost_and_fog_are_the_formula() -> None:
    """Frost: a x + b texture, so 80 more in x is 80 a more. Fog: (x + c cloud) max / (max + c), cloud in 0..1."""
    dark, light = (corrupt(grey(value), "frost", 5, parameters="cifar").double() for value in (0, 80))
    assert float((light - dark).mean()) == pytest.approx(0.75 * 80, abs=0.6)
    fog = corrupt(grey(102), "fog", 5, parameters="cifar").double()  # max 0.4, c 1.5
    assert int(fog.min()) in (21, 20)  # 0.4 * 0.4 / 1.9 * 255 = 21.5
    assert int(fog.max()) in (101, 102)  # (0.4 + 1.5) * 0.4 / 1.9 = 0.4


def test_snow_bleaches_by_the_formula() -> None:
    """Where no flake falls: b x + (1 - b) max(x, 1.5 gray + 0.5). Of 102, b = .8 (ImageNet 1): .8 .4 + .2 1.1 = .54."""
    found = corrupt(grey(102, 64), "snow", 1, parameters="imagenet")
    values, counts = found.unique(return_counts=True)
    assert int(values[0]) in (137, 138)
    assert int(values[counts.argmax()]) in (137, 138)


def test_saturate_by_hand() -> None:
    """(200, 100, 100) has saturation 1/2; times 0.3 it is 0.15: 200 (1 - 0.15) = 170; of grey nothing changes."""
    image = torch.tensor([200, 100, 100], dtype=torch.uint8)[None, :, None, None].expand(1, 3, 32, 32).contiguous()
    found = corrupt(image, "saturate", 1)[0, :, 0, 0].tolist()
    assert found[0] in (199, 200)
    assert all(value in (169, 170) for value in found[1:])
    assert set(corrupt(grey(90), "saturate", 3, parameters="cifar").unique().tolist()) <= {89, 90}


def test_elastic_without_displacement_is_an_affine_map() -> None:
    """CIFAR's severity 1 has no displacement: a ramp stays a plane, whose inner slopes are all alike."""
    ramp = (torch.arange(32) * 6).to(torch.uint8).expand(1, 3, 32, 32).contiguous()
    found = corrupt(ramp, "elastic_transform", 1, parameters="cifar")[0, 0, 12:20, 12:20].double()
    assert float(found.diff(dim=1).std()) < 0.6
    assert float(found.diff(dim=0).std()) < 0.6
    assert 4 < float(found.diff(dim=1).mean()) < 8


@pytest.mark.parametrize("name", ["glass_blur", "spatter"])
def test_what_moves_pixels_leaves_a_plain_image(name: str) -> None:
    found = corrupt(grey(120), name, 1, parameters="cifar")
    assert float((found == 120).double().mean()) > 0.5
    if name == "glass_blur":
        assert set(found.unique().tolist()) <= {119, 120}


def test_mean_corruption_errors_by_hand() -> None:
    """Noise: sum .1 + .3 over .5 + .5; fog: .2 + .2 over .25 + .25. With clean errors .05 and .1 taken off both."""
    errors, baseline = {"noise": [0.1, 0.3], "fog": [0.2, 0.2]}, {"noise": 0.5, "fog": 0.25}
    assert mean_corruption_error(errors, baseline) == pytest.approx((0.4 / 1.0 + 0.4 / 0.5) / 2)
    wanted = ((0.4 - 0.1) / (1.0 - 0.2) + (0.4 - 0.1) / (0.5 - 0.2)) / 2
    assert relative_corruption_error(errors, 0.05, baseline, 0.1) == pytest.approx(wanted)
    # AlexNet's, as the authors of AugMix print them, in the customary order.
    printed = ".886428 .894468 .922640 .819880 .826268 .785948 .798360 .866816 .826572 .819324 .564592 .853204 .646056"
    assert list(ALEXNET_ERRORS.values()) == [*map(float, printed.split()), 0.717840, 0.606500]


def test_changed_predictions_are_not_errors() -> None:
    """POCP at c = 10: of four images one goes from right to wrong, one from wrong to another wrong, one to right."""
    classes = torch.tensor([[0, 1], [5, 6], [3, 2], [3, 3]])
    table = Predictions(torch.tensor([0, 0, 2, 3]), classes, ("clean", "jpeg/90"), {})
    assert 100 * table.changed("jpeg/90") == 75
    assert (100 * table.error("clean"), 100 * table.error("jpeg/90")) == (50, 50)
    assert [variant.severity for variant in jpeg_sweep()] == [100 - c for c in range(10, 100, 10)]


def test_stability_by_hand() -> None:
    """Right class 0: probabilities (.9, .7) and (.2, .2) over two frames: mean .5, deviations .1 and 0."""
    chances = torch.tensor([[[0.9, 0.1], [0.2, 0.8]], [[0.7, 0.3], [0.2, 0.8]]])
    mean, deviation = stability(chances.log(), torch.tensor([0, 0]))
    assert (mean, deviation) == pytest.approx((0.5, 0.05))
    with pytest.raises(UsageError, match=r"give \(frames, images, classes\)"):
        stability(chances, torch.tensor([0]))


def test_crops_down_the_diagonal() -> None:
    numbers = torch.arange(100, dtype=torch.uint8).view(1, 1, 10, 10)
    frames = crop_diagonal(8, 3)
    assert [int(frame(numbers)[0, 0, 0, 0]) for frame in frames] == [0, 11, 22]
    assert frames[2](numbers).shape == (1, 1, 8, 8)
    assert len(crop_diagonal(224)) == 33
    assert [frame.name for frame in frames] == ["crop_diagonal/8,0", "crop_diagonal/8,1", "crop_diagonal/8,2"]
    with pytest.raises(UsageError, match="crop=8 at 3, 3 is not allowed on images of 10x10"):
        crop_diagonal(8, 4)[3](numbers)


class Corner(nn.Module):
    """Class 1 where the upper left pixel is bright, else class 0."""

    def forward(self, x: Tensor) -> Tensor:
        bright = x[:, 0, 0, 0] > 0
        return torch.stack([~bright, bright], 1).to(x)


def test_a_whole_profile_by_hand() -> None:
    """Images dark but for the upper left corner pixel; the model looks at that pixel alone and at nothing else."""
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    images[..., 0, 0] = 255
    sample = Sample(images, torch.ones(4).long(), (0.5,) * 3, (0.25,) * 3)
    found = robustness(Corner(), sample, "quick", device="cpu", progress=False)
    score = found.summary
    # Mirrored shifts by a pixel: only the window that has not moved has the bright pixel in its corner. 1 of 9 crops.
    assert score["shift_consistency"] == pytest.approx((1 / 9) ** 2 + (8 / 9) ** 2)
    # Rolled by -2 .. 2: the answers 0 0 1 0 0 change twice in four steps; two apart they differ in two of three pairs.
    assert score["shift_flip_probability_circular"] == 0.5
    assert found.flip_rates["shifts_circular"] == pytest.approx([2 / 4, 2 / 3, 0, 0])
    # A quarter, a half and three quarters of a turn bring another corner there: (1/4)² + (3/4)².
    assert score["quarter_turn_consistency"] == pytest.approx(10 / 16)
    assert score["flip_changed"] == 1
    # Turned by -30, -15, 15, 30 degrees the corner leaves the image, black comes in: 0 0 1 0 0 again.
    assert score["rotation_bilinear_accuracy"] == 0
    assert score["rotation_bilinear_flip_probability"] == 0.5
    # Masked, the corner is black at every angle, and no angle changes an answer.
    assert score["rotation_bilinear_masked_accuracy"] == score["rotation_bilinear_masked_flip_probability"] == 0
    masked = found.curves["rotation_bilinear_black_masked"]
    assert all(point == {"accuracy": 0, "changed": 0} for point in masked.values())
    # Logits 0 and 1: every confidence is e / (1 + e), and every answer right.
    confidence = math.e / (1 + math.e)
    assert (score["accuracy"], score["nll"]) == (1, pytest.approx(-math.log(confidence)))
    assert score["ece"] == pytest.approx(1 - confidence)
    assert score["brier"] == pytest.approx(2 * (1 - confidence) ** 2)


@pytest.mark.parametrize("unit", [None, "ic", "ghost", "circle"])
def test_fusing_changes_no_prediction(unit: str | None, golden: Callable[[str], dict[str, Any]]) -> None:
    """On real images, corrupted and turned, in float64: not one answer of the fused network is another."""
    case = golden("robustness")["case_cifar_c_first4"]
    images = case["inputs"].permute(0, 3, 1, 2).contiguous()
    sample = Sample(images, case["labels"], (0.491, 0.482, 0.447), (0.247, 0.243, 0.262))
    torch.manual_seed(0)
    model = convswap.create_model("cifar_resnet20", num_classes=10).double()
    example = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    if unit is not None:
        model = convswap.swap(model, unit, start="fresh", example_input=example)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    variants = [clean(), *corruption_set(COMMON[::3], (5,)), *shift_line(2), rotation(30)]
    names = [variant.name for variant in variants]
    before = predict(model.eval(), sample, variants, logits_of=names)
    after = predict(convswap.fuse(model, example), sample, variants, logits_of=names)
    assert torch.equal(before.classes, after.classes)
    for name in names:
        torch.testing.assert_close(before.logits[name], after.logits[name])
