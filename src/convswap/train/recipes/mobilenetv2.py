"""The recipe of MobileNetV2 (arXiv:1801.04381)."""

from __future__ import annotations

from .recipe import Recipe
from .registry import named

_MOBILE = "arXiv:1801.04381, 6.1"


@named(
    "mobilenetv2",
    what_for="MobileNetV2 on ImageNet",
    sources={
        "epochs": "not said in the paper; 300 as in torchvision's references",
        "batch_size": f"{_MOBILE}: 96 on each of 16 asynchronous GPUs; here one of 96",
        "optimizer momentum beta2": f"{_MOBILE}: RMSProp, decay and momentum 0.9, as TensorFlow computes it",
        "nesterov": "RMSProp has none",
        "epsilon": "not said in the paper; 1.0 is the default of TensorFlow-Slim's training script",
        "learning_rate": f"{_MOBILE}: 0.045",
        "schedule final_learning_rate": f"{_MOBILE}: times 0.98 each epoch, here exponentially by step: 0.98^300",
        "weight_decay": f"{_MOBILE}: 4e-5 (here not on norms and biases)",
        "warmup label_smoothing": f"{_MOBILE}: none is named",
        "crop_padding padding_mode flip": "not said; files are cropped as they are read, and flipped",
    },
    left_out=(
        "16 asynchronous workers",
        "what the published weights had besides: smoothing and an average",
    ),
)
def mobilenetv2_recipe(epochs: int = 300) -> Recipe:
    """For MobileNetV2 on ImageNet, from scratch (arXiv:1801.04381)."""
    return Recipe(
        epochs=epochs,
        batch_size=96,
        optimizer="rmsprop_tf",
        learning_rate=0.045,
        momentum=0.9,
        nesterov=False,
        beta2=0.9,
        epsilon=1.0,
        weight_decay=4e-5,
        label_smoothing=0.0,
        warmup=0.0,
        schedule="exponential",
        final_learning_rate=0.98**epochs,
        crop_padding=0,
    )
