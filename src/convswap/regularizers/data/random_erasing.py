"""Random erasing: a rectangle of each image is removed or filled with noise."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...errors import check_choice, check_number
from ..contract import Regularizer
from ..draws import Draws
from ..registry import register_regularizer


@register_regularizer
@dataclass(frozen=True)
class RandomErasing(Regularizer):
    """With a probability for each image: fill one rectangle, which lies inside the image.

    The rectangle is torchvision's (`torchvision.transforms.v2.RandomErasing`): its area is uniform between `smallest`
    and `largest` of the image's, its aspect ratio is log-uniform between `ratio` and 1 / `ratio`, its place is uniform,
    and after ten tries that do not fit nothing is erased. (The authors' code draws the aspect ratio uniformly and tries
    a hundred times.)

    Args:
        probability: of an image to be changed.
        smallest: the least area as a part of the image.
        largest: the largest area.
        ratio: the least aspect ratio.
        fill: `"mean"` (the data's mean colour, as in the authors' code) or `"random"` (normal noise for each pixel).
    """

    name = "random_erasing"
    family = "data"
    place = "batch"
    paper = "arXiv:1708.04896 (2017)"
    summary = "a rectangle of an image filled with mean colour or noise"
    cost = "one pass of Python for each image"

    probability: float = 0.5
    smallest: float = 0.02
    largest: float = 0.4
    ratio: float = 0.3
    fill: str = "mean"

    def check(self) -> None:
        """All are fractions, and `smallest` is not above `largest`."""
        check_number("probability", self.probability, lambda v: 0 < v <= 1, "a number above 0 and at most 1")
        check_number("largest", self.largest, lambda v: 0 < v <= 1, "a fraction above 0 and at most 1")
        check_number("smallest", self.smallest, lambda v: 0 < v <= self.largest, f"above 0, at most {self.largest}")
        check_number("ratio", self.ratio, lambda v: 0 < v <= 1, "a number above 0 and at most 1")
        check_choice("fill", self.fill, ("mean", "random"))

    def batch(self, images: Tensor, targets: Tensor, draws: Draws, num_classes: int) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) -> the same shape, dtype and memory format."""
        from torchvision.transforms import v2

        erase = v2.RandomErasing(
            scale=(self.smallest, self.largest),
            ratio=(self.ratio, 1 / self.ratio),
            value="random" if self.fill == "random" else 0,
        )
        chosen = (draws.uniform(len(images)) < self.probability).tolist()
        changed = images.clone()
        for row in draws.seeded(len(images)):
            if chosen[row]:
                place = erase.make_params([images[row]])
                if place["v"] is not None:
                    rows, columns = (slice(place[a], place[a] + place[b]) for a, b in (("i", "h"), ("j", "w")))
                    changed[row, :, rows, columns] = place["v"].to(images)
        return changed, targets
