"""convswap: swap any convolution unit into any CNN, train, compare, see, fuse, compress, export.

(`plan_prune` also torch-pruning).
The public face: `list_units`, `get_unit`, `register_unit`; `plan_swap`, `swap`; `plan_fuse`, `fuse`;
The public face: `list_units`, `get_unit`, `register_unit`; `plan_swap`, `swap`; `plan_fuse`, `fuse`; `plan_prune`,
`create_model`, `save`, `load`, `load_plain`. All of it needs torch alone, and loads when it is first used.
`plan_remove_residuals`, `remove_residuals`;
`plan_replace_pooling`, `replace_pooling`;
`prune`; `create_model`, `save`, `load`, `load_plain`. All of it loads when it is first used, and needs torch alone
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .errors import (
        ConvswapError,
        DataError,
        FusionError,
        StoreError,
        SurgeryError,
        TrainingError,
        UsageError,
    )
    from .models import create_model, load, load_plain, save
    from .surgery import (
        FusePlan,
        MixedPlan,
        Mixture,
        PoolingPlan,
        PrunePlan,
        RemovalPlan,
        SwapPlan,
        fuse,
        plan_fuse,
        plan_prune,
        plan_remove_residuals,
        plan_replace_pooling,
        plan_swap,
        prune,
        recalibrate_batch_norm,
        remove_residuals,
        replace_pooling,
        swap,
    )
    from .units import FeatureUnit, UnitSpec, WeightUnit, get_unit, list_units, register_unit

__all__ = [
    "ConvswapError",
    "DataError",
    "FeatureUnit",
    "FusePlan",
    "FusionError",
    "MixedPlan",
    "Mixture",
    "PoolingPlan",
    "PrunePlan",
    "RemovalPlan",
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
    "load_plain",
    "plan_fuse",
    "plan_prune",
    "plan_remove_residuals",
    "plan_replace_pooling",
    "plan_swap",
    "prune",
    "recalibrate_batch_norm",
    "register_unit",
    "remove_residuals",
    "replace_pooling",
    "save",
    "swap",
]

_ROOMS = ("data", "errors", "lab", "measure", "models", "surgery", "train", "units")
_HOMES = ("errors", "units", "surgery", "models")


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: the command line's help should not wait for torch."""
    if name in _ROOMS:
        return import_module(f".{name}", __name__)
    if name in __all__:
        for home in _HOMES:
            room = import_module(f".{home}", __name__)
            if hasattr(room, name):
                return getattr(room, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
