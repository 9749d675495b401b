"""The names that a recipe's fields choose from."""

from __future__ import annotations

from typing import Literal, get_args

Precision = Literal["auto", "bf16", "fp16", "fp32"]
Schedule = Literal["linear", "cosine", "exponential", "steps", "poly", "one_cycle"]
PaddingMode = Literal["reflect", "zeros"]
FlipMode = Literal["random", "alternating"]
OptimizerName = Literal["sgd", "adam", "adamw", "shift_adamax", "rmsprop", "rmsprop_tf", "lamb"]
Loss = Literal["cross_entropy", "squared_hinge", "binary_cross_entropy"]
ClassWeights = Literal["none", "balanced"]
Sampling = Literal["shuffle", "balanced"]

CHOICES: dict[str, tuple[str, ...]] = {
    "precision": get_args(Precision),
    "schedule": get_args(Schedule),
    "padding_mode": get_args(PaddingMode),
    "flip_mode": get_args(FlipMode),
    "optimizer": get_args(OptimizerName),
    "loss": get_args(Loss),
    "class_weights": get_args(ClassWeights),
    "sampling": get_args(Sampling),
}
"""The allowed values of each field that is one of a few names."""
