"""Surgery: model -> model. `swap` puts units in, `fuse` turns a trained network into plain convolutions."""

from .fusing import FusePlan, fuse, plan_fuse
from .plan import Replacement, Skip
from .recalibrate import recalibrate_batch_norm
from .selection import select
from .swapping import SwapPlan, plan_swap, swap

__all__ = [
    "FusePlan",
    "Replacement",
    "Skip",
    "SwapPlan",
    "fuse",
    "plan_fuse",
    "plan_swap",
    "recalibrate_batch_norm",
    "select",
    "swap",
]
