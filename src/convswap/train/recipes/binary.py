"""The recipe of BinaryNet (arXiv:1602.02830)."""

from __future__ import annotations

from .recipe import Recipe


def binary_recipe(epochs: int = 500, *, batch_size: int = 50, learning_rate: float = 1e-3) -> Recipe:
    """For networks with binary weights, from scratch: the recipe of BinaryNet (arXiv:1602.02830) on CIFAR-10.

    Adam from 1e-3 down to 3e-7 exponentially, squared hinge, no weight decay (clipping bounds the latent weights), no
    augmentation. BinaryNet's inputs were scaled to -1..1. Ours are normalised by mean and deviation by default.
    """
    return Recipe(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        optimizer="adam",
        nesterov=False,
        loss="squared_hinge",
        label_smoothing=0.0,
        weight_decay=0.0,
        warmup=0.0,
        schedule="exponential",
        final_learning_rate=3e-4,
        crop_padding=0,
        flip=False,
    )
