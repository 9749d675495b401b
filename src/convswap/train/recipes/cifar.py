"""Recipes for CIFAR-10 and CIFAR-100: the residual networks' own, and quick ones."""

from __future__ import annotations

from .recipe import Recipe
from .registry import named

_RESNET = "arXiv:1512.03385, 4.2"
_RESNET_SOURCES = {
    "batch_size momentum nesterov": f"{_RESNET}: batch 128, momentum 0.9 (not Nesterov's)",
    "learning_rate gamma": f"{_RESNET}: 0.1, divided by 10",
    "label_smoothing warmup final_learning_rate": f"{_RESNET}: none (only the 110 layers begin with 0.01)",
    "weight_decay decay_all": f"{_RESNET}: 0.0001; on all parameters in every known implementation",
    "crop_padding padding_mode flip": f"{_RESNET}: 4 zero pixels on each side, a random crop, a random flip",
}
_PIXEL_MEAN = "subtracting a mean per pixel: ours is per channel, and divided by the deviation"


def _resnet(epochs: int) -> Recipe:
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


@named(
    "cifar_paper",
    what_for="residual networks on CIFAR-10, as in their paper",
    sources={
        **_RESNET_SOURCES,
        "epochs": f"{_RESNET}: 64,000 steps of 128 images, which is 164 passes over all 50,000",
        "schedule milestones": f"{_RESNET}: steps at 32,000 and 48,000 of 64,000",
    },
    left_out=(_PIXEL_MEAN, "45,000 images for training and 5,000 for validation: ours trains on all"),
)
def cifar_paper_recipe(epochs: int = 164) -> Recipe:
    """For residual networks on CIFAR, from scratch: section 4.2 of arXiv:1512.03385."""
    return _resnet(epochs)


@named(
    "cifar_paper_200",
    what_for="residual networks on CIFAR-10 in 200 epochs, as most published repetitions do",
    sources={
        **_RESNET_SOURCES,
        "epochs": "akamaster/pytorch_resnet_cifar10: 200 epochs",
        "schedule milestones": "akamaster/pytorch_resnet_cifar10: at epochs 100 and 150",
    },
    left_out=("its published numbers are the best test accuracy of all epochs; ours are the last epoch's",),
)
def cifar_paper_200_recipe(epochs: int = 200) -> Recipe:
    """For residual networks on CIFAR, from scratch: the 200-epoch form of akamaster/pytorch_resnet_cifar10."""
    return _resnet(epochs)


@named(
    "cifar_quick",
    what_for="CIFAR-like images in a few epochs on a CPU: a first look at a unit",
    sources={
        "epochs": "ours: what two CPU cores train in an evening",
        "batch_size learning_rate weight_decay": "those of small_image, so that only the length differs",
        "momentum nesterov label_smoothing schedule warmup final_learning_rate": "those of small_image",
        "crop_padding padding_mode flip": "those of small_image",
    },
)
def cifar_quick_recipe(epochs: int = 8) -> Recipe:
    """For a first look at a unit on CIFAR-like images: `small_image_recipe` in a few epochs."""
    return Recipe(epochs=epochs)


_AIRBENCH = "KellerJordan/cifar10-airbench, airbench94"


@named(
    "cifar_fast",
    what_for="CIFAR-10 in ten epochs of large batches, with BatchNorm: airbench94 as far as it suits any unit",
    sources={
        "epochs batch_size": f"{_AIRBENCH}: batch 1024, 9.9 epochs, here whole ones",
        "learning_rate": f"{_AIRBENCH}: 11.5 / 7850.7 of the summed loss, with 7850.7 = 1024 (1 + 1 / 0.15), is 1.5 of "
        "the mean of 1024",
        "momentum nesterov": f"{_AIRBENCH}: 0.85, Nesterov's",
        "weight_decay": f"{_AIRBENCH}: 0.0153 * 1024 / 7850.7 a step, divided by the learning rate of the mean loss",
        "label_smoothing": f"{_AIRBENCH}: 0.2",
        "schedule warmup": f"{_AIRBENCH}: linearly up over 23 % of the steps, then down",
        "initial_learning_rate final_learning_rate": f"{_AIRBENCH}: from 0.2 of the peak, and to 0.07 of it",
        "crop_padding padding_mode": f"{_AIRBENCH}: crops after reflecting 2 pixels",
        "flip flip_mode": f"{_AIRBENCH}: alternating flips",
        "ema": f"{_AIRBENCH}: its Lookahead keeps 0.95 a step at the end; here the average is evaluated, not put back",
    },
    left_out=(
        "the whitening first layer and the identity (dirac) start: they need a dense weight (out, in, k, k), which "
        "many units lack, and would favour those that have it",
        "logits divided by 9, BatchNorm without scales and with momentum 0.4: these belong to its network",
        "64 times the learning rate for the biases of norms, which its divided logits allow: a ResNet-8 learned "
        "nothing with 64 and less with 8 than with 1 (12,288 images of 8 x 8, 6 epochs)",
        "flips and shifts at test time",
        "fp16: give --set precision=fp16 on a GPU",
    ),
)
def cifar_fast_recipe(epochs: int = 10) -> Recipe:
    """For networks with BatchNorm on CIFAR, from scratch, in a few hundred large steps.

    airbench94 without what would treat units differently: its whitening first layer and identity start need a dense
    weight, and its network's own settings (divided logits, BatchNorm without scales) are not a recipe's.
    """
    return Recipe(
        epochs=epochs,
        batch_size=1024,
        learning_rate=1.5,
        momentum=0.85,
        weight_decay=1.33e-3,
        label_smoothing=0.2,
        warmup=0.23,
        initial_learning_rate=0.2,
        final_learning_rate=0.07,
        crop_padding=2,
        flip_mode="alternating",
        ema=0.95,
    )
