"""The regularisation that a network brings along: it stays, and is said."""

from __future__ import annotations

import warnings
from collections import Counter

from torch import nn

_RATES = {
    "Dropout": ("p",),
    "Dropout1d": ("p",),
    "Dropout2d": ("p",),
    "Dropout3d": ("p",),
    "AlphaDropout": ("p",),
    "FeatureAlphaDropout": ("p",),
    "StochasticDepth": ("p",),
    "DropBlock2d": ("p", "drop_prob"),
    "DropPath": ("drop_prob",),
}
"""The attributes that may hold the rate, by the class's name in torch, torchvision or timm."""


def built_in(model: nn.Module) -> str:
    """The layers of a network that drop values while it trains, with their rates, or "".

    >>> built_in(nn.Sequential(nn.Dropout(0.2), nn.Dropout(0.2), nn.Dropout(0.0)))
    '2 Dropout (0.2)'
    """
    found: Counter[str] = Counter()
    rates: dict[str, list[float]] = {}
    for module in model.modules():
        kind = type(module).__name__
        own = (getattr(module, name, None) for name in _RATES.get(kind, ()))
        rate = next((rate for rate in own if rate is not None), None)
        if isinstance(rate, int | float) and rate > 0:
            found[kind] += 1
            rates.setdefault(kind, []).append(float(rate))
    return ", ".join(f"{count} {kind} ({_span(rates[kind])})" for kind, count in found.items())


def _span(rates: list[float]) -> str:
    least, most = f"{min(rates):.3g}", f"{max(rates):.3g}"
    return least if least == most else f"{least} to {most}"


def say_built_in(model: nn.Module) -> None:
    """Warn of what a network brings along. Python shows the same warning once."""
    own = built_in(model)
    if own:
        warnings.warn(f"{type(model).__name__} has regularisation of its own, which stays: {own}", stacklevel=2)
