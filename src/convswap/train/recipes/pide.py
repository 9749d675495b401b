"""The recipe of Hamiltonian and nonlocal (PIDE) networks."""

from __future__ import annotations

from .recipe import Recipe
from .registry import named

_PIDE = "the authors' code of the nonlocal networks (PIDE)"


@named(
    "pide",
    what_for="Hamiltonian and nonlocal (PIDE) networks on CIFAR",
    sources={
        "epochs batch_size": f"{_PIDE}: 200 epochs, batch 100",
        "learning_rate gamma schedule milestones": f"{_PIDE}: 0.1, times 0.1 at epochs 80, 120, 160 and 180",
        "warmup initial_learning_rate": f"{_PIDE}: 0.01 during the first epoch; here it rises from 0.01 to 0.1 in it",
        "momentum nesterov": f"{_PIDE}: 0.9, not Nesterov's",
        "weight_decay": f"{_PIDE}: 2e-4 times the sum of squares, without a half: 4e-4 (none on norms)",
        "label_smoothing final_learning_rate": f"{_PIDE}: none",
        "crop_padding padding_mode flip": f"{_PIDE}: crops after 4 pixels, flips; the padding is not said, here black",
    },
    left_out=(
        "the penalty on differences of neighbouring kernels (1e-8)",
        "no decay on the last, linear layer: here it decays",
        "a mean per pixel: ours is per channel, and divided by the deviation",
    ),
)
def pide_recipe(epochs: int = 200) -> Recipe:
    """For Hamiltonian and nonlocal networks on CIFAR, from scratch."""
    return Recipe(
        epochs=epochs,
        batch_size=100,
        learning_rate=0.1,
        nesterov=False,
        weight_decay=4e-4,
        label_smoothing=0.0,
        warmup=1 / 200,
        initial_learning_rate=0.1,
        schedule="steps",
        milestones=(0.4, 0.6, 0.8, 0.9),
        padding_mode="zeros",
    )
