"""Repeated augmentation: fewer images in a batch, each of them several times."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import UsageError, check_whole
from ..contract import Regularizer, Setting
from ..registry import register_regularizer


@register_regularizer
@dataclass(frozen=True)
class RepeatedAugmentation(Regularizer):
    """A batch of B images holds B / `number` different ones, each `number` times, cropped and flipped anew.

    Batch size and number of steps stay, so an epoch sees 1 / `number` of the images, others in every epoch.

    Args:
        number: of repetitions.
    """

    name = "repeated_augmentation"
    family = "data"
    place = "order"
    paper = "MultiGrain, arXiv:1902.05509 (2019); batch augmentation, arXiv:1901.09335"
    summary = "fewer images in a batch, each several times and differently augmented"
    cost = "none: an epoch sees fewer different images"
    alone = "copies"

    number: int = 3

    def check(self) -> None:
        """At least two repetitions."""
        check_whole("number", self.number, 2)

    def check_setting(self, setting: Setting) -> None:
        """At least two different images in a batch."""
        if setting.batch_size < 2 * self.number:
            raise UsageError(
                f"regularizer {self.name!r} with number={self.number} needs a batch_size of at least "
                f"{2 * self.number}, not {setting.batch_size}"
            )

    def repeats(self) -> int:
        """The number of repetitions."""
        return self.number
