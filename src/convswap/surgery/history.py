"""The record of a model's surgeries: plain data on the model, which `save` writes and `load` repeats."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

_ATTRIBUTE = "_convswap_history"
_CONSTRUCTOR = "_convswap_constructor"
CARD = "convswap_card"
"""The attribute in which `convswap.models` keeps what a model was trained on."""


def history_of(model: nn.Module) -> list[dict[str, Any]]:
    """The surgeries of this model, oldest first, as dictionaries for JSON."""
    return list(cast(Any, model).__dict__.get(_ATTRIBUTE, []))


def append_history(model: nn.Module, record: dict[str, Any]) -> None:
    """Record one more surgery."""
    model.__dict__[_ATTRIBUTE] = [*history_of(model), record]


def carry_history(old: nn.Module, new: nn.Module) -> None:
    """Copy the records of a model to the model that replaces it as a whole."""
    for name in (_ATTRIBUTE, _CONSTRUCTOR, CARD):
        if name in old.__dict__:
            new.__dict__[name] = old.__dict__[name]


def constructor_of(model: nn.Module) -> dict[str, Any] | None:
    """How the model was built (`{"model": name, "arguments": {...}}`), if `create_model` noted it."""
    return model.__dict__.get(_CONSTRUCTOR)
