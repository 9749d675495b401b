"""Accuracy and loss on images, without augmentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data import ArrayImages, Data, FolderImages
from ..errors import DataError, TrainingError, check_whole
from ..surgery.modes import evaluating
from .augment import Normalize
from .batches import Batch, evaluation_batches
from .precision import autocast, input_dtype, resolve_device, resolve_precision


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`.

    Attributes:
        accuracy: fraction of the images whose largest logit is the right class.
        loss: mean cross entropy, without label smoothing.
        predictions: the predicted class of every image, in order, on the CPU.
    """

    accuracy: float
    loss: float
    predictions: Tensor


@dataclass(frozen=True)
class Sums:
    """Totals over some images."""

    count: int
    correct: int
    loss: float
    predictions: Tensor


def evaluate(
    model: nn.Module,
    data: Data,
    images: ArrayImages | FolderImages | None = None,
    *,
    batch_size: int | None = None,
    precision: str = "fp32",
    device: str = "auto",
    channels_last: bool = True,
) -> Evaluation:
    """Accuracy, loss and predictions of a classifier. Afterwards its modules are in their old modes (train, eval).

    Args:
        model: the classifier, which is moved to the device.
        data: the data set, which says how images are normalised.
        images: other images of the data set; by default `data.test`.
        batch_size: by default as many as suit the image size, at most 512.
        precision: by default `"fp32"`, since an evaluation should be exact. `"bf16"` or `"auto"` save time.
        device: `"auto"`, `"cpu"`, `"cuda"`, ...
        channels_last: memory format of model and images.
    """
    images = data.test if images is None else images
    if batch_size is not None:
        check_whole("batch_size", batch_size)
    if len(images) == 0:
        raise DataError(f"there are no images to evaluate on in {data.name!r}")
    place = resolve_device(device)
    resolved = resolve_precision(precision, place)
    model.to(place)
    if channels_last:
        model.to(memory_format=torch.channels_last)
    normalize = Normalize(data.mean, data.std, device=place, dtype=input_dtype(resolved), channels_last=channels_last)
    batches = evaluation_batches(
        images, batch_size=batch_size or evaluation_batch_size(data), normalize=normalize, device=place
    )

    def forward(x: Tensor) -> Tensor:
        with autocast(resolved, place):
            return model(x)

    sums = sum_up(model, forward, batches)
    return Evaluation(sums.correct / sums.count, sums.loss / sums.count, sums.predictions)


def evaluation_batch_size(data: Data) -> int:
    """At most 512 images and 4 million pixels, which keeps activations of large images in memory."""
    height, width = data.image_size
    return max(1, min(512, 2**22 // (height * width)))


def sum_up(model: nn.Module, forward: Callable[[Tensor], Tensor], batches: Iterator[Batch]) -> Sums:
    """Add up over batches in eval mode, with one wait for the device at the end."""
    count, losses, hits, predictions = 0, [], [], []
    with evaluating(model), torch.no_grad():
        for images, labels in batches:
            logits = check_logits(forward(images)).float()
            losses.append(F.cross_entropy(logits, labels, reduction="sum"))
            predicted = logits.argmax(1)
            hits.append((predicted == labels).sum())
            predictions.append(predicted)
            count += len(labels)
    if not count:
        return Sums(0, 0, 0.0, torch.empty(0, dtype=torch.int64))
    return Sums(
        count,
        int(torch.stack(hits).sum()),
        float(torch.stack(losses).cpu().double().sum()),
        torch.cat(predictions).cpu(),
    )


def check_logits(output: object) -> Tensor:
    """A classifier must return one (N, classes) tensor; some networks add auxiliary outputs while training."""
    if isinstance(output, Tensor) and output.ndim == 2:
        return output
    found = f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
    raise TrainingError(
        f"the model returned {found}; a classifier must return one tensor (images, classes). "
        "Networks with auxiliary heads take an option such as aux_logits=False"
    )
