"""The recipe behind neural implicit frequency filters (arXiv:2307.10001)."""

from __future__ import annotations

from .recipe import Recipe
from .registry import named

_NEXT = "facebookresearch/ConvNeXt, main.py"


@named(
    "niff",
    what_for="ConvNeXt on ImageNet, with or without neural implicit frequency filters",
    sources={
        "epochs": f"arXiv:2307.10001 names no number and points to the code of ConvNeXt; {_NEXT}: 300",
        "batch_size": f"{_NEXT}: 4096 (TRAINING.md); use --set accumulate=N where that is too much",
        "optimizer learning_rate weight_decay": f"{_NEXT}: AdamW, 4e-3 at batch 4096, 0.05",
        "momentum nesterov": f"{_NEXT}: AdamW's usual first beta of 0.9",
        "schedule final_learning_rate warmup": f"{_NEXT}: cosine down to 1e-6 after 20 epochs of warm-up",
        "label_smoothing": f"{_NEXT}: 0.1",
        "crop_padding padding_mode flip": "files are cropped as they are read; flips as usual",
        "ema": f"{_NEXT}: 0.9999 (TRAINING.md evaluates it)",
    },
    left_out=(
        "the paper's numbers for each of its networks: they are published nowhere",
        "Mixup 0.8 and CutMix 1.0, RandAugment (magnitude 9), random erasing 0.25, stochastic depth",
    ),
)
def niff_recipe(epochs: int = 300) -> Recipe:
    """For ConvNeXt on ImageNet, from scratch: the recipe that the paper of NIFF (arXiv:2307.10001) points to."""
    return Recipe(
        epochs=epochs,
        batch_size=4096,
        optimizer="adamw",
        learning_rate=4e-3,
        weight_decay=0.05,
        nesterov=False,
        schedule="cosine",
        warmup=20 / 300,
        final_learning_rate=1e-6 / 4e-3,
        crop_padding=0,
        ema=0.9999,
    )
