"""Methods that change the labels or the loss."""

from .label_smoothing import LabelSmoothing
from .tsla import TSLA

__all__ = ["TSLA", "LabelSmoothing"]
