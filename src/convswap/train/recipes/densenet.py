"""The recipes of DenseNets (arXiv:1608.06993) and Min-Nets."""

from __future__ import annotations

from .recipe import Recipe
from .registry import named

_DENSE = "arXiv:1608.06993, 4.2, and liuzhuang13/DenseNet"


@named(
    "densenet",
    what_for="DenseNets on CIFAR, with augmentation (C10+, C100+); also those with minimum units",
    sources={
        "epochs batch_size": f"{_DENSE}: 300 epochs, batch 64",
        "learning_rate gamma": f"{_DENSE}: 0.1, divided by 10",
        "schedule milestones": f"{_DENSE}: at half and three quarters",
        "momentum nesterov": f"{_DENSE}: Nesterov's, 0.9",
        "weight_decay decay_all": f"{_DENSE}: 1e-4, on everything",
        "label_smoothing warmup final_learning_rate": f"{_DENSE}: none",
        "crop_padding padding_mode flip": f"{_DENSE}: crops after 4 pixels of the mean colour (here black), flips",
    },
)
def densenet_recipe(epochs: int = 300) -> Recipe:
    """For DenseNets on CIFAR, from scratch (arXiv:1608.06993). Without augmentation they have dropout of their own."""
    return Recipe(
        epochs=epochs,
        batch_size=64,
        learning_rate=0.1,
        weight_decay=1e-4,
        decay_all=True,
        label_smoothing=0.0,
        warmup=0.0,
        schedule="steps",
        milestones=(0.5, 0.75),
        padding_mode="zeros",
    )


_MIN = "the authors' code of Min-Nets (minimum units), ResNet family"


@named(
    "minnet",
    what_for="ResNets with minimum units on CIFAR-10 (for the DenseNets with them: densenet)",
    sources={
        "epochs batch_size": f"{_MIN}: 200 epochs, batch 128",
        "learning_rate gamma schedule milestones": f"{_MIN}: 0.1, times 0.1 at epochs 100 and 150",
        "momentum nesterov": f"{_MIN}: 0.9, not Nesterov's",
        "weight_decay decay_all": f"{_MIN}: 1e-4, on everything",
        "label_smoothing warmup final_learning_rate": f"{_MIN}: none",
        "crop_padding padding_mode flip": f"{_MIN}: crops after 4 zero pixels, flips",
    },
    left_out=("some of its tables are the lowest test error of all epochs; ours is the last epoch's",),
)
def minnet_recipe(epochs: int = 200) -> Recipe:
    """For ResNets with minimum units on CIFAR-10, from scratch."""
    return Recipe(
        epochs=epochs,
        batch_size=128,
        learning_rate=0.1,
        nesterov=False,
        weight_decay=1e-4,
        decay_all=True,
        label_smoothing=0.0,
        warmup=0.0,
        schedule="steps",
        milestones=(0.5, 0.75),
        padding_mode="zeros",
    )
