"""Methods that change the images of a training."""

from .cutout import Cutout
from .mixup import Mixup

__all__ = ["Cutout", "Mixup"]
