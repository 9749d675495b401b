"""The mean and standard deviation that images are normalised with.

A network trained from scratch uses the constants of the data. Trained weights need the constants they were trained
with. With other constants the function that a swap keeps sees unfamiliar inputs, and accuracy falls before any
training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from ..data import Data

Normalization = dict[str, list[float]]


def choose_normalization(choice: str, model: nn.Module, data: Data, *, trained: bool) -> Normalization | None:
    """The constants of a trial, None for the data's own.

    Args:
        choice: `"auto"`, `"data"`, `"model"`, or the numbers themselves: `"0.485,0.456,0.406/0.229,0.224,0.225"`.
            `"auto"` takes the model's constants if the model starts from trained weights and declares constants for
            these channels, else the data's.
        model: its `pretrained_cfg` declares the constants of its published weights, as in timm.
        data: the data that the model will see.
        trained: whether the model starts from trained weights.

    Raises:
        UsageError: the choice is not one of these, or the model declares no constants for these channels.
    """
    declared = _declared(model, data.channels)
    if choice == "data" or (choice == "auto" and (not trained or declared is None)):
        return None
    if choice == "auto":
        return declared
    if choice == "model":
        if declared is None:
            raise UsageError(
                f"normalization='model': the model declares none for {data.channels} channels; choose 'data' or "
                "give the numbers, MEAN,.../STD,..."
            )
        return declared
    return _numbers(choice, data.channels)


def _declared(model: nn.Module, channels: int) -> Normalization | None:
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    mean, std = (config.get(key) for key in ("mean", "std")) if isinstance(config, dict) else (None, None)
    if mean is None or std is None or not len(mean) == len(std) == channels:
        return None
    return {"mean": [float(v) for v in mean], "std": [float(v) for v in std]}


def _numbers(text: str, channels: int) -> Normalization:
    try:
        mean, std = ([float(v) for v in part.split(",")] for part in text.split("/"))
    except ValueError:
        mean, std = [], []
    if not len(mean) == len(std) == channels or not all(v > 0 for v in std):
        raise UsageError(
            f"normalization={text!r} is not allowed; choose 'auto', 'data', 'model', or {channels} means and "
            f"{channels} positive standard deviations of pixels in 0..1, MEAN,.../STD,..."
        )
    return {"mean": mean, "std": std}
