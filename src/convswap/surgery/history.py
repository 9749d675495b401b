"""What was done to a model, kept on the model as plain data so that `save` can write it and `load` repeat it."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

_ATTRIBUTE = "_convswap_history"
_CONSTRUCTOR = "_convswap_constructor"


def history_of(model: nn.Module) -> list[dict[str, Any]]:
    """The surgeries this model went through, oldest first, as JSON-able dictionaries."""
    return list(cast(Any, model).__dict__.get(_ATTRIBUTE, []))


def append_history(model: nn.Module, record: dict[str, Any]) -> None:
    """Note one more surgery."""
    model.__dict__[_ATTRIBUTE] = [*history_of(model), record]


def carry_history(old: nn.Module, new: nn.Module) -> None:
    """Let a model that replaces another as a whole take over its provenance."""
    for name in (_ATTRIBUTE, _CONSTRUCTOR):
        if name in old.__dict__:
            new.__dict__[name] = old.__dict__[name]


def constructor_of(model: nn.Module) -> dict[str, Any] | None:
    """How the model was built (`{"model": name, "arguments": {...}}`), if `create_model` noted it."""
    return model.__dict__.get(_CONSTRUCTOR)
