"""The policies: torchvision's transforms, each image with random numbers of its own."""

from __future__ import annotations

import pytest
import torch
from small_training import make_data
from torchvision.transforms import v2

from convswap.errors import UsageError
from convswap.regularizers import REGULARIZERS, Draws, parse_regularizer
from convswap.train import Recipe, regularized
from convswap.train.regularization import setting_of

POLICIES = [name for name, cls in REGULARIZERS.items() if cls.alone == "policy"]
TRANSFORMS = {
    "auto_augment:svhn": v2.AutoAugment(v2.AutoAugmentPolicy.SVHN),
    "rand_augment:operations=3:magnitude=5": v2.RandAugment(num_ops=3, magnitude=5),
    "trivial_augment": v2.TrivialAugmentWide(),
}


def images_of(count: int, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, channels, 10, 12), generator=generator, dtype=torch.uint8)


def draws(count: int) -> Draws:
    return Draws(torch.Generator().manual_seed(0), count)


@pytest.mark.parametrize("text", TRANSFORMS)
def test_each_image_goes_through_the_transform_by_itself(text: str) -> None:
    images = images_of(6)
    before = images.clone()
    changed = parse_regularizer(text).pixels(images, draws(6))
    assert torch.equal(images, before)
    want = [TRANSFORMS[text](images[row]) for row in draws(6).seeded(6)]
    assert torch.equal(changed, torch.stack(want))


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_equal_images_become_different_ones(name: str, channels: int) -> None:
    images = images_of(1, channels).repeat(12, 1, 1, 1)
    before = torch.get_rng_state()
    changed = parse_regularizer(name).pixels(images.permute(0, 1, 2, 3), draws(12))
    assert torch.equal(torch.get_rng_state(), before)
    assert changed.dtype == torch.uint8
    assert changed.shape[1:] == images.shape[1:]
    assert len({tuple(image.flatten().tolist()) for image in changed[-12:]}) > 4


@pytest.mark.parametrize("name", POLICIES)
def test_other_channels_are_refused(name: str) -> None:
    setting = setting_of(make_data(channels=2), regularized(Recipe(), [name]))
    with pytest.raises(UsageError, match=f"'{name}' changes colours of images with 1 or 3 channels, and these have 2"):
        parse_regularizer(name).check_setting(setting)
