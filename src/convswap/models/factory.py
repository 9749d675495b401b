"""Making a model from its name: timm's, torchvision's, or the user's own."""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import os
import sys
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import UsageError, check_whole, unknown_name
from .building import construct, no_download
from .weights import load_weights

_log = logging.getLogger("convswap")


def create_model(
    name: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    pretrained: bool = False,
    weights: str | Path | None = None,
    **arguments: Any,
) -> nn.Module:
    """Make a classification model by name.

    Args:
        name: a timm name (`resnet18`, `cifar_resnet20`, or `timm:resnet18`); `torchvision:resnet18`; or
            `package.module:function` for your own, found on the Python path or in the current folder. Your
            function is called with `num_classes` and `in_channels` (or `in_chans`) if it accepts them.
        num_classes: outputs of the classifier.
        in_channels: channels of the images. torchvision's models are made for 3. For another number their first
            convolution is replaced by a freshly drawn one, so `pretrained` is not allowed.
        pretrained: start from the weights published with the model (downloaded). A classifier of another
            number of classes is drawn afresh.
        weights: start from a file of weights instead, see `load_weights`.
        arguments: passed on to the model's own constructor.

    Returns:
        The model in train mode. `model._convswap_constructor` says how it was made, for `convswap.save`.
    """
    for option, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        check_whole(option, value)
    if pretrained and weights is not None:
        raise UsageError(f"pretrained=True and weights={str(weights)!r} exclude each other; give one of them")

    origin, _, rest = name.partition(":")
    if origin == "torchvision" and rest:
        from .from_torchvision import create_torchvision_model  # here: torchvision is loaded when it is needed

        model, arguments = create_torchvision_model(rest, num_classes, in_channels, pretrained, arguments)
    elif rest and origin != "timm":
        model = _create_own_model(origin, rest, num_classes, in_channels, pretrained, arguments)
    else:
        model = _create_timm_model(rest or origin, num_classes, in_channels, pretrained, arguments)

    constructor = {
        "model": name,
        "arguments": {"num_classes": num_classes, "in_channels": in_channels, **arguments},
    }
    if _is_json(constructor):  # else an argument is a class or function, and convswap.save asks for the constructor
        model._convswap_constructor = constructor  # type: ignore[assignment]
    if weights is not None:
        fresh = load_weights(model, weights)
        if fresh:
            _log.warning("%s: the classifier (%s) has other classes and starts fresh", weights, ", ".join(fresh))
    return model


def _create_timm_model(
    name: str, num_classes: int, in_channels: int, pretrained: bool, arguments: dict[str, Any]
) -> nn.Module:
    import timm

    from . import families  # noqa: F401 (registers our networks with timm)

    if not timm.is_model(name):
        raise unknown_name("model", name, timm.list_models())
    architecture, _, tag = name.partition(".")
    if tag:
        tagged = timm.list_models(f"{architecture}.*", include_tags=True)
        if name not in tagged:
            raise unknown_name("model", name, [architecture, *tagged])
    if pretrained and not timm.models.is_model_pretrained(name):
        raise UsageError(f"pretrained=True: no weights are published for model {name!r}; give weights=PATH instead")
    given = {"model_name": name, "pretrained": pretrained, "num_classes": num_classes, "in_chans": in_channels}
    try:
        return construct(name, timm.create_model, given, arguments)
    except OSError as error:  # every error of the network is an OSError
        if not pretrained:
            raise
        raise no_download(name, error) from error


def _create_own_model(
    module_name: str, attribute: str, num_classes: int, in_channels: int, pretrained: bool, arguments: dict[str, Any]
) -> nn.Module:
    function = _find_function(module_name, attribute)
    both: dict[str, Any] = {"num_classes": num_classes, "in_channels": in_channels, "pretrained": pretrained}
    return call_own_function(f"{module_name}:{attribute}", function, **both, **arguments)


def call_own_function(
    name: str,
    function: Callable[..., Any],
    *,
    num_classes: int,
    in_channels: int = 3,
    pretrained: bool = False,
    **arguments: Any,
) -> nn.Module:
    """Call a user's function with those of these arguments that it accepts, and check that it returns a model."""
    parameters = inspect.signature(function).parameters
    accepts_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    given: dict[str, Any] = {}
    if "num_classes" in parameters or accepts_all:
        given["num_classes"] = num_classes
    if "in_channels" in parameters or (accepts_all and "in_chans" not in parameters):
        given["in_channels"] = in_channels
    elif "in_chans" in parameters:
        given["in_chans"] = in_channels
    if pretrained and "pretrained" not in parameters:
        raise UsageError(f"pretrained=True: {name!r} has no argument 'pretrained'; give weights=PATH instead")
    if pretrained:
        given["pretrained"] = True
    return construct(name, function, given, arguments)


def _find_function(module_name: str, attribute: str) -> Callable[..., Any]:
    if not all(part.isidentifier() for part in (*module_name.split("."), *attribute.split("."))):
        raise UsageError(
            f"unknown kind of model '{module_name}:{attribute}'; write a timm name, torchvision:NAME, or "
            "package.module:function"
        )
    folder = os.getcwd()
    if folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)  # a console script does not search the current folder; at the end it shadows nothing
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        itself = error.name is not None and f"{module_name}.".startswith(f"{error.name}.")
        said = f"cannot import {module_name!r}: {'' if itself else 'it fails with '}{error}"
        raise UsageError(f"model '{module_name}:{attribute}': {said}") from error
    try:
        function = reduce(getattr, attribute.split("."), module)
    except AttributeError:
        callables = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise unknown_name(f"function in module {module_name!r}", attribute, callables) from None
    if not callable(function):
        found = type(function).__name__
        raise UsageError(f"model '{module_name}:{attribute}': {attribute!r} is a {found}, not a function")
    return function


def _is_json(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
