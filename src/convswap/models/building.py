"""Calling a model's constructor, with errors that the user can act on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ..errors import StoreError, UsageError, first_line


def construct(name: str, function: Callable[..., Any], given: dict[str, Any], arguments: dict[str, Any]) -> nn.Module:
    """Call a model's constructor. An argument that it does not know is the user's mistake, not a crash."""
    both = sorted(set(given) & set(arguments))
    if both:
        raise UsageError(f"model {name!r}: {', '.join(both)} is set by create_model and cannot be given again")
    try:
        model = function(**given, **arguments)
    except TypeError as error:
        wrong = [key for key in arguments if "unexpected keyword argument" in str(error) and f"'{key}'" in str(error)]
        if not wrong:
            raise
        raise UsageError(f"model {name!r} has no argument {wrong[0]!r} (got {arguments[wrong[0]]!r})") from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"model {name!r}: expected an nn.Module, got {type(model).__name__}")
    return model


def no_download(name: str, error: BaseException) -> StoreError:
    """The error for published weights that cannot be fetched."""
    return StoreError(
        f"the pretrained weights of {name!r} cannot be downloaded ({first_line(error)}); "
        "without a network, give a file with weights=PATH (--weights)"
    )
