"""Making a model from its name: timm's, torchvision's, or the user's own."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import UsageError, check_whole, unknown_name
from .building import construct, no_download
from .own import create_own_model, is_own, refuse_file
from .weights import load_weights

_log = logging.getLogger("convswap")


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
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
        num_classes: outputs of the classifier. Only a function of your own that does not take it can do without.
        in_channels: channels of the images. torchvision's models are made for 3. For another number their first
            convolution is replaced by a freshly drawn one, so `pretrained` is not allowed.
        pretrained: start from the weights published with the model (downloaded). A classifier of another
            number of classes is drawn afresh.
        weights: start from a file of weights instead, see `load_weights`.
        arguments: passed on to the model's own constructor.

    Returns:
        The model in train mode. `model._convswap_constructor` says how it was made, for `convswap.save`.
    """
    refuse_file(name)
    classes = 0 if num_classes is None and is_own(name) else check_whole("num_classes", num_classes)
    check_whole("in_channels", in_channels)
    if pretrained and weights is not None:
        raise UsageError(f"pretrained=True and weights={str(weights)!r} exclude each other; give one of them")

    origin, _, rest = name.partition(":")
    if is_own(name):
        model = create_own_model(name, num_classes, in_channels, pretrained, arguments)
    elif origin == "torchvision" and rest:
        from .from_torchvision import create_torchvision_model  # here: torchvision is loaded when it is needed

        model, arguments = create_torchvision_model(rest, classes, in_channels, pretrained, arguments)
    else:
        model = _create_timm_model(rest or origin, classes, in_channels, pretrained, arguments)

    size = {} if num_classes is None else {"num_classes": num_classes}
    constructor = {"model": name, "arguments": {**size, "in_channels": in_channels, **arguments}}
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


def _is_json(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
