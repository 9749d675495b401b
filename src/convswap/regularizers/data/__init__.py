"""Methods that change the images of a training."""

from .augmix import AugMix
from .auto_augment import AutoAugment
from .batch_augmentation import BatchAugmentation
from .cutmix import CutMix
from .cutout import Cutout
from .fixres import FixRes
from .mixup import Mixup
from .mixup_cutmix import MixupCutMix
from .rand_augment import RandAugment
from .random_erasing import RandomErasing
from .repeated_augmentation import RepeatedAugmentation
from .trivial_augment import TrivialAugment

__all__ = [
    "AugMix",
    "AutoAugment",
    "BatchAugmentation",
    "CutMix",
    "Cutout",
    "FixRes",
    "Mixup",
    "MixupCutMix",
    "RandAugment",
    "RandomErasing",
    "RepeatedAugmentation",
    "TrivialAugment",
]
