"""convswap: swap any convolution unit into any CNN, train, compare, see, fuse, compress, export.

The public face: `list_units`, `get_unit`, `register_unit`; `plan_swap`, `swap`; `plan_fuse`, `fuse`;
`create_model`, `save`, `load`. Everything here needs torch alone; timm and the rest load when used.
"""

from ._version import __version__
from .errors import (
    ConvswapError,
    DataError,
    FusionError,
    StoreError,
    SurgeryError,
    TrainingError,
    UsageError,
)
from .models import create_model, load, save
from .surgery import FusePlan, SwapPlan, fuse, plan_fuse, plan_swap, recalibrate_batch_norm, swap
from .units import FeatureUnit, UnitSpec, WeightUnit, get_unit, list_units, register_unit

__all__ = [
    "ConvswapError",
    "DataError",
    "FeatureUnit",
    "FusePlan",
    "FusionError",
    "StoreError",
    "SurgeryError",
    "SwapPlan",
    "TrainingError",
    "UnitSpec",
    "UsageError",
    "WeightUnit",
    "__version__",
    "create_model",
    "fuse",
    "get_unit",
    "list_units",
    "load",
    "plan_fuse",
    "plan_swap",
    "recalibrate_batch_norm",
    "register_unit",
    "save",
    "swap",
]
