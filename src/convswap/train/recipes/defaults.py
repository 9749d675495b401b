"""The recipes that are chosen by the data where nobody names one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .recipe import Recipe

if TYPE_CHECKING:
    from ...data import Data


def digits_recipe(epochs: int = 10) -> Recipe:
    """For 8 x 8 handwritten digits and other tiny images: seconds per training on a laptop's CPU."""
    return Recipe(epochs=epochs, batch_size=64, crop_padding=1, padding_mode="zeros", flip=False, precision="fp32")


def small_image_recipe(epochs: int = 30) -> Recipe:
    """For CIFAR-like images, from scratch: a screening run that ranks units, not a record."""
    return Recipe(epochs=epochs)


def folder_recipe(epochs: int = 60) -> Recipe:
    """For a folder of photographs, from scratch."""
    return Recipe(epochs=epochs, batch_size=64, learning_rate=0.05, weight_decay=1e-4, crop_padding=0)


def fine_tune_recipe(epochs: int = 5, *, batch_size: int = 64, crop_padding: int = 0) -> Recipe:
    """For a trained model: a tenth of the learning rate, so that the model keeps what it has learned."""
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
