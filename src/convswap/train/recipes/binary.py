"""The recipe of BinaryNet (arXiv:1602.02830)."""

from __future__ import annotations

from .recipe import Recipe
from .registry import named


@named(
    "binary",
    what_for="networks with binary weights on CIFAR-10, from scratch: BinaryNet",
    sources={
        "epochs batch_size learning_rate": "MatthieuCourbariaux/BinaryNet, CIFAR-10: 1e-3, batch 50, 500 epochs",
        "optimizer momentum": "the same: Adam with its usual first beta of 0.9",
        "nesterov": "Adam has none",
        "loss label_smoothing": "arXiv:1602.02830: squared hinge, which has no smoothing",
        "weight_decay": "none: clipping to -1..1 bounds the latent weights",
        "schedule final_learning_rate": "MatthieuCourbariaux/BinaryNet: exponentially down to 3e-7 after 500 epochs",
        "warmup": "none is named",
        "crop_padding padding_mode flip": "arXiv:1602.02830: no augmentation",
    },
    left_out=(
        "inputs scaled to -1..1: ours are normalised by mean and deviation (--normalization changes that)",
        "45,000 of the 50,000 images, chosen by validation: ours trains on all",
    ),
)
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
