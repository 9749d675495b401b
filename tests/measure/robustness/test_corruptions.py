"""The common corruptions: against the published generators' images and statistics, and by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from replayed_draws import Replay
from torch import Tensor

from convswap.data import load_data
from convswap.errors import UsageError
from convswap.measure.robustness import COMMON, GROUPS, HELD_OUT, corrupt, corruption, corruption_set
from convswap.measure.robustness.corruptions import _corrupt
from convswap.measure.robustness.parameters import PARAMETERS

ALL = COMMON + HELD_OUT
DETERMINISTIC = ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
DETERMINISTIC += ("gaussian_blur", "saturate")
# Largest share of the values that may be one grey level off; ImageMagick rounds the streaks of motion_blur its own way.
OFF_BY_ONE = {
    "motion_blur": 0.03,
    "elastic_transform": 0.003,
    "snow": 0.003,
    "glass_blur": 0.001,
    "gaussian_blur": 0.001,
}
OFF_BY_ONE |= {"zoom_blur": 0.001, "spatter": 0.001}


def nchw(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).contiguous()


@pytest.mark.parametrize("severity", [1, 3, 5])
@pytest.mark.parametrize("name", [name for name in ALL if name != "frost"])
def test_images_of_the_published_generators(name: str, severity: int, golden: Callable[[str], dict[str, Any]]) -> None:
    """With the random numbers the published code drew, the images are its images."""
    case = golden("robustness")["case_cifar_c_first4"]
    random = np.random.RandomState(case["seed"])
    images = nchw(case["inputs"])
    draws: list[Any] = []
    found = []
    for image in images.split(1):
        draws.append(Replay(random, name == "impulse_noise"))
        found.append(_corrupt(name, severity, "cifar", image, draws[-1]))
    difference = torch.cat(found).int() - nchw(case["outputs"][f"{name}/{severity}"]).int()
    assert difference.abs().max() <= (1 if name in OFF_BY_ONE else 0)
    assert (difference != 0).float().mean() <= OFF_BY_ONE.get(name, 0)


@pytest.fixture(scope="module")
def first_160(data_root: Path) -> Tensor:
    return load_data("cifar10", root=str(data_root), download=False).test.images[:160].contiguous()  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ALL)
def test_statistics_of_the_published_generators(
    name: str, first_160: Tensor, golden: Callable[[str], dict[str, Any]]
) -> None:
    """With our own random numbers: mean |d|, mean d, rms d, mean and deviation over 160 images."""
    wanted = golden("robustness")["case_cifar_c_stats160"]["stats"][name]
    for severity in range(1, 6):
        seeds = range(1 if name in DETERMINISTIC else 4)
        changed = torch.cat([corrupt(first_160, name, severity, seed=seed) for seed in seeds]).double()
        d = changed - first_160.repeat(len(seeds), 1, 1, 1)
        found = [d.abs().mean(), d.mean(), d.square().mean().sqrt(), changed.mean(), changed.std()]
        if name in DETERMINISTIC:
            assert [float(v) for v in found] == pytest.approx(list(map(float, wanted[severity - 1])), abs=2e-3)
            continue
        # Angles, clouds and affine maps are drawn once per image, so their 160 images leave a few percent to chance.
        size, bias, spread, mean, deviation = map(float, wanted[severity - 1])
        noise = name.endswith("_noise")
        assert float(found[0]) == pytest.approx(size, rel=0.02 if noise else 0.09, abs=0.1)
        assert float(found[1]) == pytest.approx(bias, abs=0.2 if noise else 2.6)
        assert float(found[2]) == pytest.approx(spread, rel=0.02 if noise else 0.08, abs=0.1)
        assert float(found[3]) == pytest.approx(mean, abs=0.2 if noise else 2.6)
        assert float(found[4]) == pytest.approx(deviation, abs=0.2 if noise else 1.5)


@pytest.mark.parametrize("parameters", ["cifar", "imagenet"])
@pytest.mark.parametrize("name", ALL)
def test_same_images_however_split(name: str, parameters: str) -> None:
    """An image's corruption hangs on seed, name and place alone: not on the batch, nor on the global generator."""
    images = torch.randint(0, 256, (5, 3, 32, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    torch.manual_seed(1)
    whole = corrupt(images, name, 2, seed=3, parameters=parameters)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    parts = [corrupt(images[i], name, 2, seed=3, parameters=parameters, indices=[*i]) for i in ([0, 1], [4], [2, 3])]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(whole[[0, 1, 4, 2, 3]], torch.cat(parts))
    assert torch.equal(images, before)
    assert whole.dtype == torch.uint8
    assert whole.shape == images.shape
    random = name not in DETERMINISTIC
    assert torch.equal(whole, corrupt(images, name, 2, seed=4, parameters=parameters)) is not random


def test_tables_are_complete() -> None:
    assert tuple(PARAMETERS) == ALL
    assert (len(COMMON), len(HELD_OUT)) == (15, 4)
    assert sum(map(len, GROUPS.values())) == 19
    for both in PARAMETERS.values():
        assert [len(levels) for levels in both] == [5, 5]
        assert len({len(level) for levels in both for level in levels}) == 1
    assert len(corruption_set()) == 75
    assert len({variant.name for variant in corruption_set(ALL)}) == 95


def test_contrast_by_hand() -> None:
    """Half black, half 200: the mean is 100, and at c = 0.15 the halves are 85 and 115."""
    image = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    image[..., 8:] = 200
    found = corrupt(image, "contrast", 5, parameters="cifar")
    assert found.unique().tolist() in ([84, 114], [84, 115], [85, 114], [85, 115])


def test_brightness_and_noise_by_hand() -> None:
    grey = torch.full((64, 3, 32, 32), 100, dtype=torch.uint8)
    assert corrupt(grey, "brightness", 5, parameters="cifar").unique().tolist() == [176]  # 100 + 76.5, cut off
    pepper = corrupt(grey, "impulse_noise", 5, parameters="cifar")
    assert pepper.unique().tolist() == [0, 100, 255]
    assert float((pepper != 100).double().mean()) == pytest.approx(0.07, abs=0.003)
    assert float((pepper == 255).double().mean()) == pytest.approx(0.035, abs=0.003)
    noisy = corrupt(grey, "gaussian_noise", 5, parameters="cifar").double()
    assert float(noisy.std()) == pytest.approx(25.5, abs=0.2)
    assert float(noisy.mean()) == pytest.approx(99.5, abs=0.2)
    shot = corrupt(grey, "shot_noise", 5, parameters="cifar").double()
    assert float(shot.var()) == pytest.approx(100 * 255 / 50, rel=0.03)  # variance = mean / c in 0..1


def test_pixelate_by_hand() -> None:
    """32 -> 16 -> 32 in ImageNet's 0.5 (severity 2): each square of four pixels becomes its mean."""
    image = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    image[..., ::2, ::2] = 200
    assert corrupt(image, "pixelate", 2, parameters="imagenet").unique().tolist() == [50]


def test_grey_images() -> None:
    images = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
    for name in ALL:
        if name != "saturate":
            assert corrupt(images, name, 3).shape == images.shape
    with pytest.raises(UsageError, match="saturate"):
        corrupt(images, "saturate", 3)


def test_no_images() -> None:
    assert corrupt(torch.zeros(0, 3, 32, 32, dtype=torch.uint8), "snow", 1).shape == (0, 3, 32, 32)


@pytest.mark.parametrize("name", [name for name in ALL if name != "glass_blur"])
def test_large_images_take_imagenet_parameters(name: str) -> None:
    images = torch.randint(0, 256, (1, 3, 128, 130), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = corrupt(images, name, 1)
    assert found.shape == images.shape
    assert torch.equal(found, corrupt(images, name, 1, parameters="imagenet"))
    assert not torch.equal(found, images)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("gausian_noise", 1), "did you mean 'gaussian_noise'"),
        (("fog", 6), "severity=6"),
        (("fog", 1, "mnist"), "'cifar', 'imagenet'"),
    ],
)
def test_wrong_arguments(arguments: tuple[Any, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        corruption(*arguments)


@pytest.mark.parametrize(
    "images", [torch.rand(1, 3, 32, 32), torch.zeros(3, 32, 32, dtype=torch.uint8), torch.zeros(1, 2, 32, 32).byte()]
)
def test_wrong_images(images: Tensor) -> None:
    with pytest.raises(UsageError, match=r"uint8 images|1 or 3 channels"):
        corrupt(images, "fog", 1)


def test_small_images() -> None:
    with pytest.raises(UsageError, match="16 x 16"):
        corrupt(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "fog", 1)
