"""Methods inside the network: hooks on modules that stay as they are.

A method finds its places in one pass over a black image (`places`, on the record that `tape` makes of it).
"""

from .drop_block import DropBlock
from .dropout import Dropout
from .grad_aug import GradAug
from .manifold_mixup import ManifoldMixup
from .max_dropout import MaxDropout
from .max_pool_dropout import MaxPoolDropout
from .shake_drop import ShakeDrop
from .shake_shake import ShakeShake
from .spatial_dropout import SpatialDropout
from .stochastic_depth import StochasticDepth
from .target_drop import TargetDrop

__all__ = [
    "DropBlock",
    "Dropout",
    "GradAug",
    "ManifoldMixup",
    "MaxDropout",
    "MaxPoolDropout",
    "ShakeDrop",
    "ShakeShake",
    "SpatialDropout",
    "StochasticDepth",
    "TargetDrop",
]
