"""Surgery: model -> model. `swap` puts units in, `fuse` gives plain convolutions, `prune` a narrower network."""

from .fusing import FusePlan, fuse, plan_fuse
from .mixing import MixedPlan
from .mixture import Mixture
from .plan import Replacement, Skip
from .pooling import PoolingPlan, plan_replace_pooling, replace_pooling
from .pruning import PrunePlan, plan_prune, prune
from .recalibrate import recalibrate_batch_norm
from .residuals import RemovalPlan, plan_remove_residuals, remove_residuals
from .selection import select
from .swap_plan import SwapPlan
from .swapping import plan_swap, swap

__all__ = [
    "FusePlan",
    "MixedPlan",
    "Mixture",
    "PoolingPlan",
    "PrunePlan",
    "RemovalPlan",
    "Replacement",
    "Skip",
    "SwapPlan",
    "fuse",
    "plan_fuse",
    "plan_prune",
    "plan_remove_residuals",
    "plan_replace_pooling",
    "plan_swap",
    "prune",
    "recalibrate_batch_norm",
    "remove_residuals",
    "replace_pooling",
    "select",
    "swap",
]
