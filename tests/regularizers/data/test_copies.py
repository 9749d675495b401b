"""Copies and repetitions: what a batch holds, for arrays and folders, for one process and two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_training import make_data

from convswap.data import ArrayImages, FolderImages
from convswap.errors import UsageError
from convswap.regularizers import parse_regularizers
from convswap.train import Recipe, regularized
from convswap.train.augment import Normalize
from convswap.train.batches import Augmentation, TrainBatches
from convswap.train.regularization import setting_of
from convswap.train.seeding import ALONE, Share

CPU = torch.device("cpu")
PIXELS = torch.randint(0, 256, (24, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
NUMBERED = ArrayImages(PIXELS, torch.arange(24))


def batches_of(
    images: ArrayImages | FolderImages,
    *names: str,
    share: Share = ALONE,
    flip: bool = True,
    order: Callable[[torch.Generator], torch.Tensor] | None = None,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    channels = 1 if isinstance(images, ArrayImages) else 3
    made = TrainBatches(
        images,
        batch_size=8,
        seed=0,
        augmentation=Augmentation(padding=2, flip=flip),
        normalize=Normalize((0.5,) * channels, (0.25,) * channels, device=CPU),
        device=CPU,
        share=share,
        order=order,
        methods=parse_regularizers(names),
        num_classes=24,
    )
    return list(made.epoch(1))


def test_a_batch_holds_copies_block_by_block() -> None:
    plain, copied = batches_of(NUMBERED), batches_of(NUMBERED, "batch_augmentation:3")
    assert len(copied) == len(plain)
    for (_, labels), (images, again) in zip(plain, copied, strict=True):
        assert again.tolist() == labels.tolist() * 3
        assert images.shape[0] == 24
        assert len(set(labels.tolist())) == 8
        different = [not torch.equal(images[k], images[k + 8]) for k in range(8)]
        assert sum(different) >= 6


def test_a_batch_holds_repetitions_block_by_block() -> None:
    repeated = batches_of(NUMBERED, "repeated_augmentation:3")
    assert len(repeated) == 3
    for images, labels in repeated:
        assert len(labels) == 8
        assert labels.tolist() == (labels[:3].tolist() * 3)[:8]
        assert len(set(labels.tolist())) == 3
        assert sum(not torch.equal(images[k], images[k + 3]) for k in range(3)) >= 2
    assert len({int(label) for _, labels in repeated for label in labels}) == 9


@pytest.mark.parametrize(
    "names",
    [
        ("batch_augmentation:2",),
        ("repeated_augmentation:2",),
        ("cutout:4", "mixup"),
        ("random_erasing", "cutmix:probability=1"),
        ("batch_augmentation:2", "trivial_augment", "cutout:4", "mixup_cutmix"),
        ("augmix", "cutout:4"),
    ],
)
def test_two_processes_see_the_batches_of_one(names: tuple[str, ...]) -> None:
    whole = batches_of(NUMBERED, *names)
    halves = [batches_of(NUMBERED, *names, share=Share(rank, 2)) for rank in (0, 1)]
    for (images, targets), first, second in zip(whole, *halves, strict=True):
        blocks = len(images) // 8
        both = [
            torch.cat([a.unflatten(0, (blocks, -1)), b.unflatten(0, (blocks, -1))], 1).flatten(0, 1)
            for a, b in ((first[0], second[0]),)
        ]
        assert torch.equal(both[0], images)
        labels = len(targets) // 8
        parts = [half[1].unflatten(0, (labels, -1)) for half in (first, second)]
        torch.testing.assert_close(torch.cat(parts, 1).flatten(0, 1), targets)


@pytest.mark.parametrize("name", ["batch_augmentation:2", "repeated_augmentation:2"])
def test_copies_of_a_file_have_different_crops(name: str, tmp_path: Path) -> None:
    for k in range(8):
        pixels = torch.randint(0, 256, (40, 40, 3), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / f"{k}.png")
    images = FolderImages(sorted(tmp_path.glob("*.png")), list(range(8)), 12, train=True)
    ((batch, labels),) = batches_of(images, name, flip=False)
    groups = Counter(labels.tolist())
    assert set(groups.values()) == {2}
    for label in groups:
        first, second = batch[labels == label]
        assert not torch.equal(first, second)


def test_an_image_drawn_twice_has_different_crops(tmp_path: Path) -> None:
    """Balanced classes draw with replacement. Before: the same file had the same crop all through an epoch."""
    Image.fromarray(torch.randint(0, 256, (40, 40, 3), dtype=torch.uint8).numpy()).save(tmp_path / "0.png")
    images = FolderImages([tmp_path / "0.png"] * 8, [0] * 8, 12, train=True)
    for names in ((), ("repeated_augmentation:2",), ("batch_augmentation:2",)):
        ((batch, labels),) = batches_of(images, *names, flip=False, order=lambda generator: torch.zeros(8).long())
        assert len({tuple(image.flatten().tolist()) for image in batch}) == len(labels), names


def test_a_batch_too_small_for_the_repetitions_is_refused() -> None:
    recipe = regularized(Recipe(batch_size=5), ["repeated_augmentation:3"])
    (method,) = parse_regularizers(recipe.regularize)
    with pytest.raises(UsageError, match="needs a batch_size of at least 6, not 5"):
        method.check_setting(setting_of(make_data(), recipe))
