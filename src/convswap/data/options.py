"""The options that decide which images a data set is made of, and what their pixels are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..errors import UsageError, check_choice, check_known, check_number

WHITE = "#ffffff"


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """How a data set is read. Two data sets read with other options are two data sets.

    Attributes:
        channels: of folders: `"rgb"`, `"gray"` (one channel), or `"auto"`: RGB, and a hint where all images are grey.
        background: of folders: the colour behind transparent pixels, `#rrggbb` or a name that Pillow knows.
        eval_split: which part is the test part where there are two, `"val"` or `"test"`. `"auto"` watches `val` during
            the training and runs `test` once at the end.
        hold_out: for data without a validation part, the share of the training images that becomes one, up to one
            half. 0: none.

    Raises:
        UsageError: a value is not allowed.
    """

    channels: str = "auto"
    background: str = WHITE
    eval_split: str = "auto"
    hold_out: float = 0.0

    def __post_init__(self) -> None:
        check_choice("channels", self.channels, ("auto", "gray", "rgb"))
        check_choice("eval_split", self.eval_split, ("auto", "val", "test"))
        check_number("hold_out", self.hold_out, lambda v: 0 <= v <= 0.5, "a share of the training images, at most 0.5")
        object.__setattr__(self, "background", _hexadecimal(self.background))

    def as_dict(self) -> dict[str, Any]:
        """The options off their defaults, for a trial's description."""
        return {name: value for name, value in asdict(self).items() if value != getattr(DataOptions, name)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DataOptions:
        """The options of `as_dict()`. An unknown name raises a `UsageError`."""
        check_known("data option", values, [field.name for field in fields(cls)])
        return cls(**values)


def _hexadecimal(colour: object) -> str:
    """`"white"` and `"#FFF"` as `"#ffffff"`: one colour has one spelling in a trial's description."""
    if colour == WHITE:  # the default needs no Pillow
        return WHITE
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(str(colour))[:3]
    except ValueError:
        raise UsageError(
            f"background={colour!r} is not allowed; give a colour's name (white, black, gray) or #rrggbb"
        ) from None
    return f"#{red:02x}{green:02x}{blue:02x}"
