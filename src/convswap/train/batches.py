"""Batches of a training or an evaluation, ready on the device.

Order and augmentation are a pure function of (seed, epoch, position in the epoch): the same for every unit and
model, on every device, after a resume, and for any number of processes, each of which takes its share of the
same global batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from ..data import ArrayImages, FolderImages
from ..errors import DataError, UsageError
from ..machine import usable_cores
from ..regularizers import Regularizer, Still
from .augment import Draws, Normalize, check_padding, crop_flip
from .data_methods import Batch, DataMethods
from .seeding import ALONE, Share, generator_for


@dataclass(frozen=True)
class Augmentation:
    """What happens to training images."""

    padding: int = 0
    padding_mode: str = "reflect"
    flip: bool = False
    flip_mode: str = "random"


class TrainBatches:
    """The training batches of every epoch.

    An incomplete last batch is dropped (its images stand elsewhere in another epoch's order). A data set smaller than
    one batch makes one batch of all its images.

    Args:
        images: the training images.
        batch_size: of the global batch, over all processes.
        seed: of order and augmentation.
        augmentation: crops (of arrays; folders crop as they read) and flips.
        normalize: the last step, which also fixes dtype and memory format.
        device: where the batches are wanted.
        share: this process's part of each global batch.
        order: the order of an epoch from a generator. By default each image comes once.
        methods: the regularisers that change batches.
        num_classes: of the data, for methods that mix labels.
    """

    def __init__(
        self,
        images: ArrayImages | FolderImages,
        *,
        batch_size: int,
        seed: int,
        augmentation: Augmentation,
        normalize: Normalize,
        device: torch.device,
        share: Share = ALONE,
        order: Callable[[torch.Generator], Tensor] | None = None,
        methods: tuple[Regularizer, ...] = (),
        num_classes: int = 0,
    ) -> None:
        count = len(images)
        self.order = order or (lambda generator: torch.randperm(count, generator=generator))
        if count == 0:
            raise DataError("there are no training images")
        batch_size = min(batch_size, count // share.world * share.world)
        if batch_size == 0 or batch_size % share.world:
            raise UsageError(f"batch_size={batch_size} cannot be divided among {share.world} processes")
        self.images, self.seed, self.augmentation = images, seed, augmentation
        self.normalize, self.device, self.share = normalize, device, share
        self.batch_size = batch_size
        self.steps = count // batch_size
        self.methods = DataMethods(methods, seed=seed, num_classes=num_classes, share=share)
        if isinstance(images, ArrayImages):
            if augmentation.padding:
                height, width = images.images.shape[2:]
                check_padding(augmentation.padding, (height, width), augmentation.padding_mode)
            self._pixels_NHWC = _stack(images, device)
            self._labels_N = images.labels.to(device)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch: images (N, C, H, W) as `normalize` makes them, and labels (N,).

        Methods that mix images give class weights (N, classes) in place of labels. Methods with copies give more images
        and labels than the batch size says, block by block.
        """
        count, share, copies = len(self.images), self.share, self.methods.copies
        kept = self._index(epoch)
        position = torch.arange(self.steps * self.batch_size).view(self.steps, share.world, -1)[:, share.rank]
        padding = self.augmentation.padding if isinstance(self.images, ArrayImages) else 0
        draws = Draws.draw(
            count * copies,
            padding=padding,
            flip=self.augmentation.flip,
            generator=generator_for(self.seed, epoch, "augmentation"),
        )
        rows = kept.shape[1]
        kept, position = _again(kept, count**2 * self.methods.repeats, copies), _again(position, count, copies)
        draws = draws[position.flatten()]
        if self.augmentation.flip and self.augmentation.flip_mode == "alternating":
            first_N = torch.rand(count, generator=generator_for(self.seed, 0, "flip")) < 0.5
            draws = draws.alternating(first_N[kept.flatten() % count], epoch)
        draws = draws.to(self.device)
        finish = self.methods.epoch(epoch, rows)
        if isinstance(self.images, ArrayImages):
            batches = self._from_array((kept % count).to(self.device), draws)
        else:
            batches = self._from_folder(self.images, kept, draws, epoch)
        return (finish(pixels_NHWC, self.normalize, labels) for pixels_NHWC, labels in batches)

    def _index(self, epoch: int) -> Tensor:
        """The images of this process, (steps, images of a step). Each time image k stands there, it is k + c count."""
        count, share = len(self.images), self.share
        order_N = _numbered(self.order(generator_for(self.seed, epoch, "order")), count)
        different = -(-self.batch_size // self.methods.repeats)
        # Block by block, so that neighbours are different images: they are the pairs of the methods that mix.
        kept = _again(order_N[: self.steps * different].view(self.steps, different), count**2, self.methods.repeats)
        return kept[:, : self.batch_size].reshape(self.steps, share.world, -1)[:, share.rank]

    def still(self) -> Still | None:
        """The training images if nothing ever changes them: no crop, no flip, no method. Else None."""
        images = self.images
        changed = self.augmentation.padding or self.augmentation.flip or self.methods.active
        if changed or not isinstance(images, ArrayImages):
            return None

        def batches() -> Iterator[Tensor]:
            found = evaluation_batches(images, batch_size=self.batch_size, normalize=self.normalize, device=self.device)
            return (batch for batch, _ in found)

        return Still(batches, lambda epoch: self._index(epoch).flatten() % len(images))

    def _from_array(self, index_SN: Tensor, draws: Draws) -> Iterator[Batch]:
        size = index_SN.shape[1]
        mode = self.augmentation.padding_mode
        for step, index_N in enumerate(index_SN):
            rows = draws[step * size : (step + 1) * size]
            yield crop_flip(self._pixels_NHWC, index_N, rows, padding_mode=mode), self._labels_N[index_N]

    def _from_folder(self, images: FolderImages, index_SN: Tensor, draws: Draws, epoch: int) -> Iterator[Batch]:
        images.set_epoch(self.seed, epoch)
        size = index_SN.shape[1]
        batches = _loader(images, index_SN.tolist(), self.device)
        everything = torch.arange(size, device=self.device)
        for step, (pixels, labels) in enumerate(batches):
            pixels_NHWC = _channels_inside(pixels.to(self.device, non_blocking=True))
            pixels_NHWC = crop_flip(pixels_NHWC, everything, draws[step * size : (step + 1) * size])
            yield pixels_NHWC, labels.to(self.device, non_blocking=True)


def _numbered(order_N: Tensor, count: int) -> Tensor:
    """An order in which an image may stand several times: the c-th time (from 0) image k is k + c `count`."""
    value_N, place_N = order_N.sort(stable=True)
    time_N = torch.arange(len(value_N)) - torch.searchsorted(value_N, value_N)
    return torch.empty_like(order_N).scatter_(0, place_N, value_N + count * time_N)


def _again(number_SN: Tensor, count: int, times: int) -> Tensor:
    """Each row several times, one block behind the other: k, then k + `count`, then k + 2 `count`, ..."""
    return torch.cat([number_SN + block * count for block in range(times)], dim=1)


def evaluation_batches(
    images: ArrayImages | FolderImages,
    *,
    batch_size: int,
    normalize: Normalize,
    device: torch.device,
    share: Share = ALONE,
) -> Iterator[Batch]:
    """All images once, in order. The last batch may be smaller. Each process takes every world-th batch."""
    starts = range(share.rank * batch_size, len(images), share.world * batch_size)
    if isinstance(images, ArrayImages):
        for start in starts:
            pixels = images.images[start : start + batch_size].to(device)
            yield normalize(_channels_inside(pixels)), images.labels[start : start + batch_size].to(device)
        return
    rows = [list(range(start, min(start + batch_size, len(images)))) for start in starts]
    for pixels, labels in _loader(images, rows, device):
        yield normalize(_channels_inside(pixels.to(device, non_blocking=True))), labels.to(device)


def _channels_inside(pixels_NCHW: Tensor) -> Tensor:
    return pixels_NCHW.permute(0, 2, 3, 1).contiguous()


def _stack(images: ArrayImages, device: torch.device) -> Tensor:
    return _channels_inside(images.images.to(device))


def worker_count() -> int:
    """The number of processes that read images: one per core this process may use, at most 8."""
    return min(8, usable_cores())


class _Handed(Dataset[Any]):
    """The images, with a `DataError` handed over as an item: a worker would bury it in the text of its traceback.

    A number k + c len(images) stands for the c-th copy of image k.
    """

    def __init__(self, images: FolderImages) -> None:
        self.images = images

    def __getitem__(self, index: int) -> Any:
        try:
            copy, image = divmod(index, len(self.images))
            return self.images.read(image, copy=copy) if copy else self.images[image]
        except DataError as error:
            return error


def _collate(items: list[Any]) -> Any:
    return next((item for item in items if isinstance(item, DataError)), None) or default_collate(items)


def _loader(images: FolderImages, rows: list[list[int]], device: torch.device) -> Iterator[Any]:
    """Read the given rows of indices in worker processes. They start anew each epoch, so they know `set_epoch`.

    Raises:
        DataError: a file can no longer be read.
    """
    loader: DataLoader[Any] = DataLoader(
        _Handed(images),
        batch_sampler=rows,
        collate_fn=_collate,
        num_workers=min(worker_count(), len(rows)),
        pin_memory=device.type == "cuda",
        # Without its own generator the loader would take a number from the global one.
        generator=torch.Generator().manual_seed(0),
    )
    for batch in loader:
        if isinstance(batch, DataError):
            raise batch
        yield batch
