"""The recipes of the all-convolutional net (arXiv:1412.6806)."""

from __future__ import annotations

from .recipe import Recipe
from .registry import named

_WHY = "all-convolutional nets on CIFAR, which have no BatchNorm"
_SOURCES = {
    "epochs": "arXiv:1412.6806: 350 epochs",
    "batch_size": "not said in the paper; 128 is the default of neon, which has the network among its examples",
    "learning_rate": "the paper chose the best of 0.25, 0.1, 0.05 and 0.01 for each network; 0.05 is neon's",
    "momentum nesterov": "the paper: fixed momentum of 0.9",
    "weight_decay": "the paper: 0.001",
    "schedule milestones warmup final_learning_rate": "the paper: times 0.1 at epochs 200, 250 and 300, no warm-up",
    "label_smoothing": "none in the paper",
}
_LEFT_OUT = (
    "contrast normalisation and ZCA whitening of the images",
    "the choice of the learning rate for each network",
    "dropout of 20 % of the pixels and 50 % behind each pooling belongs to the networks, and `all_cnn_*` have it",
)


@named(
    "all_cnn",
    what_for=f"{_WHY}, without augmentation",
    sources={**_SOURCES, "crop_padding padding_mode flip": "the paper's comparison of networks has no augmentation"},
    left_out=_LEFT_OUT,
)
def all_cnn_recipe(
    epochs: int = 350, *, batch_size: int = 128, learning_rate: float = 0.05, augment: bool = False
) -> Recipe:
    """For networks without BatchNorm on CIFAR, from scratch: the recipe of the all-convolutional net (arXiv:1412.6806).

    SGD with momentum 0.9, the learning rate times 0.1 at epochs 200, 250 and 300 of 350 (at the same fractions of
    another number of epochs), weight decay 0.001. The dropout (20 % of the pixels, 50 % behind each pooling) belongs to
    the networks: `all_cnn_*` have it. The paper's images had contrast normalisation and ZCA whitening, which our data
    have not: they are normalised by mean and deviation. The paper does not say the batch size.

    Args:
        epochs: passes over the training images.
        batch_size: images per step.
        learning_rate: the paper chose the best of 0.25, 0.1, 0.05 and 0.01 for each network.
        augment: flips and shifts by up to 5 pixels, as for the paper's 7.25 %; its comparison of networks (Table 3) has
            none. What comes in at the border is not said; here it is black.
    """
    return Recipe(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        nesterov=False,
        weight_decay=1e-3,
        label_smoothing=0.0,
        warmup=0.0,
        schedule="steps",
        milestones=(200 / 350, 250 / 350, 300 / 350),
        crop_padding=5 if augment else 0,
        padding_mode="zeros",
        flip=augment,
    )


@named(
    "all_cnn_augmented",
    what_for=f"{_WHY}, with flips and shifts",
    sources={
        **_SOURCES,
        "crop_padding flip": "the paper's 7.25 %: flips and shifts by up to 5 pixels",
        "padding_mode": "what comes in at the border is not said; here black",
    },
    left_out=_LEFT_OUT,
)
def all_cnn_augmented_recipe(epochs: int = 350) -> Recipe:
    """`all_cnn_recipe` with flips and shifts."""
    return all_cnn_recipe(epochs, augment=True)
