"""Surgery: model -> model. `swap` puts units in, `fuse` gives plain convolutions, `prune` a narrower network."""

from .fusing import FusePlan, fuse, plan_fuse
from .plan import Replacement, Skip
from .pruning import PrunePlan, plan_prune, prune
from .recalibrate import recalibrate_batch_norm
from .selection import select
from .swapping import SwapPlan, plan_swap, swap

__all__ = [
    "FusePlan",
    "PrunePlan",
    "Replacement",
    "Skip",
    "SwapPlan",
    "fuse",
    "plan_fuse",
    "plan_prune",
    "plan_swap",
    "prune",
    "recalibrate_batch_norm",
    "select",
    "swap",
]
