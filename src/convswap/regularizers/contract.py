"""What a regulariser is: a frozen set of options, the facts of its method, and the places of a training it acts at.

A method is one file with one class:

    @register_regularizer
    @dataclass(frozen=True)
    class Cutout(Regularizer):
        name, family, place = "cutout", "data", "batch"
        ...
        length: int = 16

        def check(self) -> None: ...
        def batch(self, images, targets, random, num_classes): ...

It overrides the hooks it needs. The training asks for nothing else: `overrides(method, Regularizer.attach)`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from .draws import Draws

Family = Literal["data", "internal", "label"]
Place = Literal["order", "pixels", "size", "batch", "mix", "network", "loss", "step"]
PLACES: dict[Place, str] = {
    "order": "which images make a batch",
    "pixels": "the uint8 images, before they are normalised",
    "size": "the normalised batch: its resolution",
    "batch": "the normalised batch, image by image",
    "mix": "the normalised batch and its labels, in pairs",
    "network": "inside the network",
    "loss": "the loss",
    "step": "the whole step",
}
"""Where a method acts, in words. Methods act in this order, however they are listed."""

Forward = Callable[[Tensor], Tensor]
"""Images (N, C, H, W) to logits (N, classes): the network in training mode, in the precision of the recipe."""


@dataclass(frozen=True)
class Still:
    """Training images that look alike in every epoch, so that what depends on them alone is computed once.

    Attributes:
        batches: all of them in the order of the data set, normalised: (M, C, H, W) each.
        index: the numbers of the images that this process sees in an epoch, in the order in which it sees them.
    """

    batches: Callable[[], Iterator[Tensor]]
    index: Callable[[int], Tensor]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a method may know of the training it takes part in.

    Attributes:
        num_classes: of the data.
        channels: of the images.
        image_size: height and width of the test images.
        batch_size: of the global batch.
        epochs: of the whole training.
        seed: of the training.
        device: where network and batches are.
        wrap: makes a further module ready for training (precision, several devices) and returns its forward.
        autocast: the context of the recipe's precision, for forward passes of a network that is not trained.
        add_up: the sum of a tensor over all processes.
        teacher: a trained network of the same classes, from the training's normalised images to logits, or None.
        still: the training images if nothing ever changes them, else None.
    """

    num_classes: int
    channels: int
    image_size: tuple[int, int]
    batch_size: int
    epochs: int
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    wrap: Callable[[nn.Module], Forward] = lambda module: module
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    add_up: Callable[[Tensor], Tensor] = lambda mine: mine
    teacher: Forward | None = None
    still: Still | None = None


class Active:
    """What a method keeps while a training runs. The base does nothing.

    Attributes:
        companion: a module that belongs to the method and not to the network, or None. Its parameters are trained by
            the recipe's optimizer, its state is part of the checkpoint, and it is dropped after the training.
    """

    companion: nn.Module | None = None

    def begin_epoch(self, epoch: int) -> None:
        """Called before the first step of each epoch (counted from 1), also of the first one after a resume."""

    def progress(self, done: float) -> None:
        """Called before each step, with the finished part of the training, 0 <= done < 1."""

    def detach(self) -> None:
        """Called once, after the training or after its failure: leave the network without a trace."""


class Attachment(Active):
    """A method that sits inside a network: what `Regularizer.attach` returns."""


class Outcome(NamedTuple):
    """The result of one step's forward passes.

    Attributes:
        loss: a scalar to differentiate.
        logits: (M, classes), for the accuracy on the training images.
        labels: (M,) class numbers of these logits. Of mixed targets the class with the largest weight counts.
    """

    loss: Tensor
    logits: Tensor
    labels: Tensor


class Objective(Active):
    """What one training step computes."""

    @abstractmethod
    def step(self, forward: Forward, images: Tensor, targets: Tensor) -> Outcome:
        """The loss of one batch.

        Args:
            forward: the network.
            images: (N, C, H, W), normalised.
            targets: class numbers (M,), or class weights (M, classes) that sum to 1. M is N, unless a method has
                several images of each label in the batch.
        """

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        """The recipe's loss: the mean, or one value an image for `reduction="none"`."""


class Regularizer:
    """Base of the methods; see the module's text. Hooks do nothing by default.

    Attributes:
        name: in the table and on the command line.
        family: `"data"`, `"internal"` or `"label"`.
        place: where it acts, a key of `PLACES`.
        paper: title or arXiv number, and the year.
        summary: one line.
        cost: what a step costs more, in words.
        alone: a word that methods share which exclude each other, such as `"mixer"`. Empty: none.
        soft_targets: the loss gets class weights in place of class numbers, so it must be the cross entropy.
        replaces_smoothing: the method decides how soft labels are, so the recipe's `label_smoothing` must be 0.
        separable: the method changes the step, but an image at a time: the step may be computed in parts.
        two_networks: the method trains a second network, so that nothing can be attached to the first.
        excludes: names of methods that cannot be combined with this one, each with the reason.
    """

    name: ClassVar[str]
    family: ClassVar[Family]
    place: ClassVar[Place]
    paper: ClassVar[str]
    summary: ClassVar[str]
    cost: ClassVar[str] = "none to speak of"
    alone: ClassVar[str] = ""
    soft_targets: ClassVar[bool] = False
    replaces_smoothing: ClassVar[bool] = False
    separable: ClassVar[bool] = False
    two_networks: ClassVar[bool] = False
    excludes: ClassVar[dict[str, str]] = {}

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raise a `UsageError` for an option that is not allowed."""

    def check_setting(self, setting: Setting) -> None:
        """Raise a `UsageError` if the method cannot work with these data or this batch size."""

    def check_model(self, model: nn.Module, setting: Setting) -> None:
        """Raise a `UsageError` if the method cannot work with this network. What can be attached needs no check."""

    def copies(self) -> int:
        """How often each image stands in its batch, which becomes larger by this factor."""
        return 1

    def repeats(self) -> int:
        """How often each image stands in its batch, which keeps its size and holds fewer images instead."""
        return 1

    def pixels(self, images: Tensor, draws: Draws) -> Tensor:
        """Change uint8 images (N, C, H, W), cropped and flipped. More than N images may come back (see `Objective`).

        The input must not be changed in place.
        """
        return images

    def batch(self, images: Tensor, targets: Tensor, draws: Draws, num_classes: int) -> tuple[Tensor, Tensor]:
        """Change the normalised images (N, C, H, W) and their targets. The inputs must not be changed in place."""
        return images, targets

    def attach(self, model: nn.Module, setting: Setting) -> Attachment:
        """Put the method into a network, in place, before it is compiled.

        Raises:
            UsageError: the network has no place for it, or not one that the method can serve, with the reason.
        """
        raise NotImplementedError

    def smoothing(self, done: float) -> float:
        """The label smoothing after a part of the training, 0 <= done < 1."""
        raise NotImplementedError

    def objective(self, inner: Objective, model: nn.Module, setting: Setting) -> Objective:
        """What a step computes with this method, around what it computes without."""
        raise NotImplementedError


def overrides(method: Regularizer | type[Regularizer], hook: Callable[..., Any]) -> bool:
    """Does the method's class write this hook of `Regularizer`?"""
    cls = method if isinstance(method, type) else type(method)
    return getattr(cls, hook.__name__) is not hook


def hard_labels(targets: Tensor) -> Tensor:
    """(N,) class numbers of targets (N,) or (N, classes): the class with the largest weight."""
    return targets if targets.ndim == 1 else targets.argmax(1)


def class_weights(targets: Tensor, num_classes: int) -> Tensor:
    """Targets as float32 weights (N, classes), also where they are class numbers."""
    if targets.ndim == 2:
        return targets.float()
    return torch.nn.functional.one_hot(targets, num_classes).float()
