"""The recipes of the all-convolutional net (arXiv:1412.6806)."""

from __future__ import annotations

from .recipe import Recipe


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


def all_cnn_augmented_recipe(epochs: int = 350) -> Recipe:
    """`all_cnn_recipe` with flips and shifts."""
    return all_cnn_recipe(epochs, augment=True)
