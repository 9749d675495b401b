from __future__ import annotations

import pytest
import torch
from torch.utils.data import Dataset

from convswap.data import FolderImages
from convswap.errors import DataError, UsageError
from convswap.train import batches as module
from convswap.train.augment import Normalize
from convswap.train.batches import Augmentation, TrainBatches, evaluation_batches
from convswap.train.seeding import Share

from .conftest import make_data

CPU = torch.device("cpu")
AUGMENTED = Augmentation(padding=2, flip=True)


def make_batches(images, *, batch_size=8, seed=0, share=Share(), augmentation=AUGMENTED) -> TrainBatches:  # noqa: B008
    normalize = Normalize((0.3,), (0.25,), device=CPU)
    return TrainBatches(
        images,
        batch_size=batch_size,
        seed=seed,
        augmentation=augmentation,
        normalize=normalize,
        device=CPU,
        share=share,
    )


def equal(first, second) -> bool:
    return all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(first, second, strict=True))


def test_batches_depend_on_seed_and_epoch_alone() -> None:
    data = make_data()
    first = list(make_batches(data.train).epoch(1))
    torch.manual_seed(99)
    torch.rand(5)
    state = torch.get_rng_state()
    assert equal(first, make_batches(data.train).epoch(1))
    assert torch.equal(state, torch.get_rng_state())
    assert not equal(first, make_batches(data.train).epoch(2))
    assert not equal(first, make_batches(data.train, seed=1).epoch(1))


@pytest.mark.parametrize("what", ["crop", "flip"])
def test_one_picture_looks_different_in_other_epochs_and_seeds(what: str) -> None:
    # One picture has one order: what differs was drawn for the augmentation.
    picture = make_data(count=1, size=16).train
    augmentation = Augmentation(padding=6) if what == "crop" else Augmentation(flip=True)

    def shown(seed: int, epoch: int) -> torch.Tensor:
        batches = make_batches(picture, seed=seed, augmentation=augmentation)
        return next(batches.epoch(epoch))[0].flatten()

    epochs = torch.stack([shown(0, epoch) for epoch in range(1, 17)])
    seeds = torch.stack([shown(seed, 1) for seed in range(16)])
    for looks in (epochs, seeds):
        assert len(torch.unique(looks, dim=0)) == (2 if what == "flip" else pytest.approx(16, abs=3))


def test_an_epoch_shows_each_image_at_most_once_and_drops_the_rest() -> None:
    data = make_data(count=30)
    batches = make_batches(data.train, augmentation=Augmentation())
    shown = torch.cat([images for images, _ in batches.epoch(1)])
    assert batches.steps == 3
    assert len(shown) == 24
    assert len(torch.unique(shown.flatten(1), dim=0)) == 24


def test_a_small_data_set_is_one_batch() -> None:
    batches = make_batches(make_data(count=6).train, batch_size=128)
    assert batches.steps == 1
    assert len(next(batches.epoch(1))[0]) == 6


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_the_same_global_batches(world: int) -> None:
    data = make_data()
    whole = list(make_batches(data.train).epoch(3))
    parts = [list(make_batches(data.train, share=Share(rank, world)).epoch(3)) for rank in range(world)]
    joined = [
        (torch.cat([images for images, _ in step]), torch.cat([labels for _, labels in step]))
        for step in zip(*parts, strict=True)
    ]
    assert equal(whole, joined)


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(UsageError, match="batch_size=8"):
        make_batches(make_data().train, share=Share(0, 3))


def test_no_images_are_an_error() -> None:
    with pytest.raises(DataError, match="no training images"):
        make_batches(make_data(count=0).train)


def test_every_test_image_comes_once_over_all_processes() -> None:
    data = make_data()
    normalize = Normalize((0.0,), (1.0,), device=CPU)
    seen = []
    for rank in range(2):
        found = evaluation_batches(
            data.test, batch_size=4, normalize=normalize, device=CPU, share=Share(rank, 2)
        )  # fmt: skip
        seen += [(image, label) for images, labels in found for image, label in zip(images, labels, strict=True)]
    assert len(seen) == len(data.test)
    assert sorted(int(label) for _, label in seen) == sorted(data.test.labels.tolist())


def test_test_images_come_in_order_with_their_labels() -> None:
    data = make_data()
    normalize = Normalize((0.0,), (1.0,), device=CPU)
    found = list(evaluation_batches(data.test, batch_size=8, normalize=normalize, device=CPU))
    assert torch.equal(torch.cat([labels for _, labels in found]), data.test.labels)
    images = torch.cat([images for images, _ in found])
    torch.testing.assert_close(images, data.test.images / 255)


def test_training_images_keep_their_labels() -> None:
    data = make_data()
    label = {
        image.numpy().tobytes(): int(label) for image, label in zip(data.train.images, data.train.labels, strict=True)
    }
    batches = make_batches(data.train, augmentation=Augmentation())
    for images, labels in batches.epoch(1):
        pixels = ((images * 0.25 + 0.3) * 255).round().to(torch.uint8)
        assert [label[image.contiguous().numpy().tobytes()] for image in pixels] == labels.tolist()


class Drawn(FolderImages):
    """A folder without files: what an image shows follows from (seed, epoch, index)."""

    def __init__(self, count: int) -> None:
        self.count, self.drawn = count, (0, 0)

    def set_epoch(self, seed: int, epoch: int) -> None:
        self.drawn = (seed, epoch)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        generator = torch.Generator().manual_seed(hash((*self.drawn, index)))
        return torch.randint(0, 256, (1, 6, 6), generator=generator, dtype=torch.uint8), index % 3


@pytest.mark.parametrize("workers", [0, 2])
def test_folders_follow_seed_and_epoch_whatever_the_workers(workers: int, monkeypatch) -> None:
    images: Dataset = Drawn(20)
    reference = list(make_batches(images).epoch(2))
    monkeypatch.setattr(module, "worker_count", lambda: workers)
    state = torch.get_rng_state()
    assert equal(reference, make_batches(images).epoch(2))
    assert torch.equal(state, torch.get_rng_state())
    assert not equal(reference, make_batches(images).epoch(1))
    assert len(reference) == 2
    pixels = list(evaluation_batches(images, batch_size=8, normalize=make_batches(images).normalize, device=CPU))
    assert [len(labels) for _, labels in pixels] == [8, 8, 4]
