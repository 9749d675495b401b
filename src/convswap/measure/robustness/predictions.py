"""Fill the table: run a model over every variant of the images."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from ...data import ArrayImages, Data, FolderImages
from ...errors import DataError, UsageError, check_whole
from ...surgery.modes import evaluating
from .perturbation import Perturbation, check_images
from .table import Predictions


@dataclass(frozen=True, eq=False)
class Sample:
    """The images to evaluate: uint8, with their labels and the normalisation that the model expects.

    Attributes:
        images: uint8 (N, C, H, W), on the CPU.
        labels: int64 (N,).
        mean: of each channel, of pixels in 0..1.
        std: of each channel, of pixels in 0..1; above 0.

    Raises:
        UsageError: one of them is not of that kind, or they do not fit together.
    """

    images: Tensor
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        check_images(self.images)
        count, channels = self.images.shape[:2]
        if self.labels.dtype != torch.int64 or self.labels.shape != (count,):
            raise UsageError(
                f"labels of {self.labels.dtype} and shape {tuple(self.labels.shape)} are not allowed; give torch.int64 "
                f"labels ({count},), one for each image"
            )
        if count and int(self.labels.min()) < 0:
            raise UsageError(f"labels={int(self.labels.min())} is not allowed; classes are numbered from 0")
        if len(self.mean) != channels or len(self.std) != channels or min(self.std) <= 0:
            raise UsageError(
                f"mean={self.mean}, std={self.std} is not allowed; give {channels} of each, one for each channel, std "
                "above 0"
            )

    def __len__(self) -> int:
        return len(self.labels)


def sample_of(data: Data | Sample, limit: int | None = None) -> Sample:
    """The first `limit` test images of a data set (all by default), in memory.

    Folders are sorted by class, so a part of one is taken in equal steps over the whole. Arrays are taken in order.

    Raises:
        UsageError: the limit is not a whole number of at least 1, or `data` is not a data set.
        DataError: there are no test images.
    """
    if limit is not None:
        check_whole("images", limit)
    if not isinstance(data, Data | Sample):
        raise UsageError(
            f"dataset={type(data).__name__} is not allowed; give a data set (convswap.data.load_data) or a Sample"
        )
    if isinstance(data, Sample):
        if not len(data):
            raise DataError("there are no images in the sample")
        return Sample(data.images[:limit], data.labels[:limit], data.mean, data.std)
    if not len(data.test):
        raise DataError(f"there are no test images in {data.name!r}")
    if isinstance(data.test, ArrayImages):
        images, labels = data.test.images[:limit].cpu().contiguous(), data.test.labels[:limit].cpu()
    else:
        images, labels = _read(data.test, limit)
    return Sample(images, labels, data.mean, data.std)


def _read(folder: FolderImages, limit: int | None) -> tuple[Tensor, Tensor]:
    count = len(folder) if limit is None else min(limit, len(folder))
    pairs = [folder[index * len(folder) // count] for index in range(count)]
    return torch.stack([image for image, _ in pairs]), torch.tensor([label for _, label in pairs])


def predict(
    model: nn.Module,
    sample: Sample,
    perturbations: Sequence[Perturbation],
    *,
    seed: int = 0,
    batch_size: int = 256,
    device: str | torch.device = "cpu",
    logits_of: Collection[str] = (),
    progress: bool = True,
) -> Predictions:
    """The predicted class of every image in every variant. The model's modes are restored afterwards.

    The random numbers depend only on seed, variant and image. Several models therefore see the same perturbed images,
    and differences between the models are paired.

    Args:
        model: a classifier. It is moved to the device and gets images of the type of its parameters.
        sample: the images.
        perturbations: the variants, one column each.
        seed: of the perturbations.
        batch_size: images at a time; does not change the perturbed images.
        device: where the model runs; images are perturbed on the CPU.
        logits_of: variants whose logits are kept.
        progress: draw a bar on a terminal.

    Raises:
        UsageError: an argument is not allowed; an unknown variant in `logits_of`; the model does not return an
            (images, classes) tensor of finite numbers (NaN has no largest), or has fewer classes than there are
            labels.
    """
    names = tuple(variant.name for variant in perturbations)
    check_whole("batch_size", batch_size)
    if not isinstance(model, nn.Module):
        raise UsageError(f"model={type(model).__name__} is not allowed; give a torch.nn.Module")
    if not names or not len(sample):
        raise UsageError("predict needs at least one perturbation and one image")
    if strange := [name for name in logits_of if name not in names]:
        raise UsageError(f"logits_of={strange!r} is not allowed; the variants are {', '.join(names)}")
    place = torch.device(device)
    model.to(place)
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    mean, std = (torch.tensor(values, device=place)[:, None, None] for values in (sample.mean, sample.std))
    columns, logits = [], {}
    with evaluating(model), torch.no_grad(), _bar(progress, len(names) * len(sample)) as advance:
        for variant in perturbations:
            rows = []
            for start in range(0, len(sample), batch_size):
                part = sample.images[start : start + batch_size]
                changed = variant(part, seed, range(start, start + len(part))).to(place)
                output = model(((changed.float() / 255 - mean) / std).to(dtype))
                rows.append(
                    _checked(output, sample.labels[start : start + len(part)], variant.name, start).float().cpu()
                )
                advance(len(part), variant.name)
            found = torch.cat(rows)
            columns.append(found.argmax(1))
            if variant.name in logits_of:
                logits[variant.name] = found
    return Predictions(sample.labels, torch.stack(columns, 1), names, logits)


def _checked(output: Any, labels: Tensor, variant: str, start: int) -> Tensor:
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(labels):
        found = f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise UsageError(
            f"model returned {found}, which is not allowed; a classifier must return one (images, classes)"
        )
    if (label := int(labels.max())) >= output.shape[1]:
        raise UsageError(f"model returned scores of {output.shape[1]} classes, but there is a label {label}")
    if len(bad := (~output.isfinite()).any(1).nonzero()):
        raise UsageError(
            f"model returned NaN or infinity for image {start + int(bad[0])} of variant {variant!r}, which is not "
            "allowed; it names no class"
        )
    return output


@contextmanager
def _bar(show: bool, total: int) -> Iterator[Any]:
    """A function that moves a bar on stderr by a number of images, if stderr is a terminal."""
    if not show or not sys.stderr.isatty() or find_spec("rich") is None:
        yield lambda count, name: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    text = TextColumn("{task.description}", markup=False)
    bar = Progress(text, BarColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True)
    with bar:
        task = bar.add_task("robustness", total=total)
        yield lambda count, name: bar.update(task, advance=count, description=name)
