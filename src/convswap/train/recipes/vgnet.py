"""The recipe of VGNets."""

from __future__ import annotations

from .recipe import Recipe
from .registry import named

_VG = "the authors' script of December 2021 (the paper of VGNet does not give its recipe)"


@named(
    "vgnet",
    what_for="VGNets on ImageNet",
    sources={
        "epochs batch_size": f"{_VG}: 100 epochs, batch 512",
        "learning_rate momentum nesterov": f"{_VG}: 0.2, momentum 0.9 (not Nesterov's)",
        "weight_decay": f"{_VG}: 1e-4, none on biases and norms",
        "schedule final_learning_rate": f"{_VG}: cosine by step, down to 1e-6",
        "warmup": f"{_VG}: 5 epochs, linearly",
        "label_smoothing": f"{_VG}: 0.1",
        "crop_padding padding_mode flip": f"{_VG}: random resized crops and flips (files are cropped as they are read)",
    },
    left_out=("the longer, stronger recipe behind the paper's best numbers, which is published nowhere",),
)
def vgnet_recipe(epochs: int = 100) -> Recipe:
    """For VGNets on ImageNet, from scratch."""
    return Recipe(
        epochs=epochs,
        batch_size=512,
        learning_rate=0.2,
        nesterov=False,
        weight_decay=1e-4,
        schedule="cosine",
        warmup=5 / 100,
        final_learning_rate=1e-6 / 0.2,
        crop_padding=0,
    )
