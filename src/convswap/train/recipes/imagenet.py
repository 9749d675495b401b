"""Recipes for ImageNet and other large sets of photographs, from scratch."""

from __future__ import annotations

from .recipe import Recipe
from .registry import named

_A2 = "arXiv:2110.00476 (timm), A2"
_TV = "torchvision's recipe of its second ImageNet weights (pytorch.org/blog)"
_CROPS = "files are cropped as they are read, so nothing is padded"


@named(
    "imagenet_a2",
    what_for="ResNet-50 and larger on ImageNet in 300 epochs; on smaller networks plain recipes do better",
    sources={
        "epochs batch_size": f"{_A2}: 300 epochs, batch 2048",
        "optimizer learning_rate weight_decay": f"{_A2}: LAMB, 5e-3, 0.02 (none on norms and biases)",
        "momentum nesterov": "LAMB's usual first beta of 0.9",
        "clip_norm": "timm's LAMB limits the gradients' norm to 1 by default",
        "schedule final_learning_rate": f"{_A2}: cosine down to 1e-6",
        "warmup": f"{_A2}: 5 epochs",
        "loss label_smoothing": f"{_A2}: binary cross entropy, without smoothing",
        "crop_padding padding_mode": _CROPS,
        "flip": f"{_A2}: the usual random crops and flips of ImageNet",
        "regularize": f"{_A2}: each image three times in a batch, two operations of RandAugment at 7 of 10 (21 of "
        "torchvision's 30), Mixup 0.1 or CutMix 1.0",
    },
    left_out=(
        "RandAugment's own noise of the magnitude (0.5) and its increasing operations, which are timm's",
        "stochastic depth 0.05, which needs residual blocks: --regularize replaces all methods, so list them with it",
        "bicubic resizing, and a centre crop of 95 % at test time",
    ),
)
def imagenet_a2_recipe(epochs: int = 300) -> Recipe:
    """For large networks on ImageNet, from scratch: the A2 procedure of "ResNet strikes back" (arXiv:2110.00476).

    `convswap recipes imagenet_a2` says what is left out of it.
    """
    return Recipe(
        epochs=epochs,
        batch_size=2048,
        optimizer="lamb",
        learning_rate=5e-3,
        weight_decay=0.02,
        nesterov=False,
        clip_norm=1.0,
        schedule="cosine",
        warmup=5 / 300,
        final_learning_rate=1e-6 / 5e-3,
        loss="binary_cross_entropy",
        label_smoothing=0.0,
        crop_padding=0,
        regularize=(
            "repeated_augmentation:3",
            "rand_augment:operations=2:magnitude=21",
            "mixup_cutmix:mixup_alpha=0.1:cutmix_alpha=1",
        ),
    )


@named(
    "imagenet_torchvision",
    what_for="ResNet-50 and larger on ImageNet in 600 epochs: the weights IMAGENET1K_V2",
    sources={
        "epochs batch_size": f"{_TV}: 600 epochs, 8 GPUs x 128 images",
        "learning_rate momentum nesterov": f"{_TV}: 0.5, momentum 0.9 (not Nesterov's)",
        "weight_decay": f"{_TV}: 2e-5, none on norms (here none on other biases either)",
        "schedule final_learning_rate": f"{_TV}: cosine to 0",
        "warmup initial_learning_rate": f"{_TV}: 5 epochs, linearly from 0.01 of the peak",
        "label_smoothing": f"{_TV}: 0.1",
        "ema ema_every": f"{_TV}: every 32 steps, 0.99998, which its script turns into 1 - 2e-5 * 1024 * 32 / 600",
        "crop_padding padding_mode": _CROPS,
        "flip": f"{_TV}: random flips",
        "regularize": f"{_TV}: each image four times in a batch, TrivialAugment, 176 pixels for tests at 224, "
        "random erasing 0.1 with torchvision's largest area of 0.33, Mixup 0.2 or CutMix 1.0",
    },
    left_out=("tests at 224 out of 232 pixels: ours are cropped as docs/data.md says",),
)
def imagenet_torchvision_recipe(epochs: int = 600) -> Recipe:
    """For large networks on ImageNet, from scratch: torchvision's recipe behind its second set of weights.

    `convswap recipes imagenet_torchvision` says what is left out of it.
    """
    return Recipe(
        epochs=epochs,
        batch_size=1024,
        learning_rate=0.5,
        nesterov=False,
        weight_decay=2e-5,
        schedule="cosine",
        warmup=5 / 600,
        initial_learning_rate=0.01,
        ema=1 - 2e-5 * 1024 * 32 / 600,
        ema_every=32,
        crop_padding=0,
        regularize=(
            "repeated_augmentation:4",
            "trivial_augment",
            "fixres",
            "random_erasing:probability=0.1:largest=0.33",
            "mixup_cutmix:mixup_alpha=0.2:cutmix_alpha=1",
        ),
    )
