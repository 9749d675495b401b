"""FixRes: training at a lower resolution than testing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UsageError, check_number, first_line
from ...surgery.modes import evaluating
from ..contract import Regularizer, Setting
from ..draws import Draws
from ..registry import register_regularizer


@register_regularizer
@dataclass(frozen=True)
class FixRes(Regularizer):
    """Training images have `ratio` times the height and width of the test images (bilinear, with antialiasing).

    Random crops make objects look larger in training than in testing. Fewer pixels in training take this back, and make
    a step cheaper. The paper's second part, a short fine-tuning at the resolution of the tests, is a training of its
    own that goes on from this one without the method.

    Args:
        ratio: training side / test side. The default gives 176 of 224, as in torchvision's recipe.
    """

    name = "fixres"
    family = "data"
    place = "size"
    paper = "arXiv:1906.06423 (2019)"
    summary = "training images are smaller than test images"
    cost = "less than none: a step costs about ratio^2 of a plain one"
    alone = "resolution"

    ratio: float = 0.786

    def check(self) -> None:
        """The ratio lies between 0 and 1."""
        check_number("ratio", self.ratio, lambda v: 0 < v < 1, "a number above 0 and below 1")

    def size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the training images."""
        height, width = (round(side * self.ratio) for side in image_size)
        return height, width

    def check_setting(self, setting: Setting) -> None:
        """The training images must be smaller, and must not vanish."""
        size = self.size(setting.image_size)
        if min(size) < 1 or size == tuple(setting.image_size):
            raise UsageError(
                f"regularizer 'fixres' with ratio={self.ratio:.4g} makes images of {size[0]}x{size[1]} out of "
                f"{setting.image_size[0]}x{setting.image_size[1]}; give another ratio"
            )

    def check_model(self, model: nn.Module, setting: Setting) -> None:
        """The network must take images of both sizes."""
        height, width = self.size(setting.image_size)
        example = torch.zeros(1, setting.channels, height, width, device=setting.device)
        try:
            with evaluating(model), torch.no_grad():
                model(example)
        except Exception as error:  # a network may refuse a size by any error
            raise UsageError(
                f"regularizer 'fixres' trains on images of {height}x{width}, which the network does not take "
                f"({first_line(error, 100)}); use a network that averages over all places before its classifier"
            ) from error

    def batch(self, images: Tensor, targets: Tensor, draws: Draws, num_classes: int) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) -> (N, C, h, w) in the same dtype and memory format."""
        height, width = images.shape[2:]
        smaller = F.interpolate(images.float(), self.size((height, width)), mode="bilinear", antialias=True)
        channels_last = images.is_contiguous(memory_format=torch.channels_last)
        kept = torch.channels_last if channels_last else torch.contiguous_format
        return smaller.to(images.dtype).contiguous(memory_format=kept), targets
