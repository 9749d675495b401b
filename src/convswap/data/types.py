"""The types by which the rest of convswap sees a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import Tensor

from .describe import Description
from .folder import FolderImages


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images that are held in memory and moved to the training device as a whole.

    Attributes:
        images: uint8, (N, C, H, W), possibly a channels-last view, so use `reshape`, not `view`.
        labels: int64, (N,).
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


Images: TypeAlias = ArrayImages | FolderImages
"""Images with labels: in memory, or streamed from files."""


@dataclass(frozen=True, eq=False)
class Data:
    """A data set for classification.

    Attributes:
        name: the name by which it was loaded.
        train: the training images.
        test: the images on which accuracy is reported.
        num_classes: number of classes. Labels are 0 ... num_classes - 1.
        channels: channels of the images.
        image_size: height and width of the model's input.
        mean: mean of each channel, of pixels in 0..1.
        std: standard deviation of each channel, of pixels in 0..1.
        class_names: one name per label.
        fingerprint: sha256 over the contents: pixels or files, labels, parts and how pixels are read.
        flip: whether a mirrored image still shows its class. False for characters (digits, MNIST) and for
            single-channel `npz:` files, which are often characters or measurements; True for photographs,
            Fashion-MNIST and all else.
        validation: images to watch during the training. None: the test images are watched.
        description: what a person should know of the data. None for data made by hand.
        options: the `DataOptions` off their defaults, by which the same data are loaded again.
    """

    name: str
    train: Images
    test: Images
    num_classes: int
    channels: int
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    fingerprint: str
    flip: bool
    validation: Images | None = None
    description: Description | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
