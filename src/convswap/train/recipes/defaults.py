"""The recipes that are chosen by the data where nobody names one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .recipe import Recipe
from .registry import named

if TYPE_CHECKING:
    from ...data import Data


_OURS = "ours: one value for all units, tuned for none"
_TRIANGLE = {
    "schedule warmup": "ours: a triangle with its peak after a fifth, after davidcpage/cifar10-fast",
    "final_learning_rate": "ours: the triangle ends at 0",
    "momentum nesterov": "the usual 0.9, in Nesterov's form as in fast CIFAR-10 recipes",
    "label_smoothing": "0.1 as in arXiv:1512.00567",
}


@named(
    "digits",
    what_for="8 x 8 digits and other tiny images, from scratch: seconds per training (auto chooses it)",
    sources={
        **_TRIANGLE,
        "epochs batch_size learning_rate weight_decay": _OURS,
        "crop_padding": "ours: one pixel of eight",
        "padding_mode": "ours: digits lie on black",
        "flip": "a digit turned over is another sign",
        "precision": "ours: bf16 gains nothing on maps so small",
    },
)
def digits_recipe(epochs: int = 10) -> Recipe:
    """For 8 x 8 handwritten digits and other tiny images: seconds per training on a laptop's CPU."""
    return Recipe(epochs=epochs, batch_size=64, crop_padding=1, padding_mode="zeros", flip=False, precision="fp32")


@named(
    "small_image",
    what_for="CIFAR-like images, from scratch: a screening run that ranks units (auto chooses it)",
    sources={
        **_TRIANGLE,
        "epochs batch_size learning_rate weight_decay": _OURS,
        "crop_padding flip": "the usual shifts by up to 4 pixels and flips of CIFAR-10 (arXiv:1512.03385, 4.2)",
        "padding_mode": "ours: reflection, as in fast CIFAR-10 recipes",
    },
)
def small_image_recipe(epochs: int = 30) -> Recipe:
    """For CIFAR-like images, from scratch: a screening run that ranks units, not a record."""
    return Recipe(epochs=epochs)


@named(
    "folder",
    what_for="a folder of photographs, from scratch (auto chooses it)",
    sources={
        **_TRIANGLE,
        "epochs batch_size learning_rate weight_decay": _OURS,
        "crop_padding padding_mode": "files are cropped as they are read, so nothing is padded",
        "flip": "ours: photographs have no handedness (data may forbid it)",
    },
)
def folder_recipe(epochs: int = 60) -> Recipe:
    """For a folder of photographs, from scratch."""
    return Recipe(epochs=epochs, batch_size=64, learning_rate=0.05, weight_decay=1e-4, crop_padding=0)


@named(
    "fine_tune",
    what_for="a model with trained weights (auto chooses it, with batch and crops by the data)",
    sources={
        **{key: text for key, text in _TRIANGLE.items() if not key.startswith("schedule")},
        "schedule warmup": "ours: a cosine after a warm-up of a fifth, since fresh units need one",
        "epochs batch_size weight_decay": _OURS,
        "learning_rate": "ours: a twentieth of training from scratch, so that the model keeps what it has learned",
        "crop_padding padding_mode flip": "ours: as in training from scratch on photographs",
    },
)
def fine_tune_recipe(epochs: int = 5, *, batch_size: int = 64, crop_padding: int = 0) -> Recipe:
    """For a trained model: a small learning rate, so that the model keeps what it has learned."""
    return Recipe(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=0.01,
        weight_decay=1e-4,
        schedule="cosine",
        crop_padding=crop_padding,
    )


def default_recipe(data: Data, *, pretrained: bool = False, epochs: int | None = None) -> Recipe:
    """The recipe for a data set, chosen by image size and by whether the model starts from trained weights.

    Args:
        data: what will be trained on.
        pretrained: the model holds trained weights, so fine-tune gently.
        epochs: replaces the recipe's own number.
    """
    from ...data import FolderImages

    chosen = {} if epochs is None else {"epochs": epochs}
    folder = isinstance(data.train, FolderImages)
    if pretrained:
        return fine_tune_recipe(**chosen, batch_size=32 if folder else 128, crop_padding=0 if folder else 4)
    if folder:
        return folder_recipe(**chosen)
    if max(data.image_size) < 16:
        return digits_recipe(**chosen)
    return small_image_recipe(**chosen)
