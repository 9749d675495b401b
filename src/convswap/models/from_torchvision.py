"""torchvision's classification models, for any number of classes and channels."""

from __future__ import annotations

from typing import Any

import torchvision
from torch import nn

from ..errors import UsageError, unknown_name
from .building import construct, no_download
from .weights import classifier_path

_AUXILIARY_HEADS = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}


def create_torchvision_model(
    name: str, num_classes: int, in_channels: int, pretrained: bool, arguments: dict[str, Any]
) -> tuple[nn.Module, dict[str, Any]]:
    """Make a model of `torchvision.models`, without auxiliary heads.

    Returns:
        The model, and the arguments that make the same network without its pretrained weights.
    """
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise unknown_name("torchvision model", name, known)
    if pretrained and in_channels != 3:
        raise UsageError(
            f"in_channels={in_channels}: the pretrained torchvision model {name!r} takes 3 channels; "
            "use pretrained=False, or timm's model, which adapts its first convolution"
        )
    arguments = dict(arguments)
    if name in _AUXILIARY_HEADS:
        if arguments.pop("aux_logits", False):
            raise UsageError(f"aux_logits=True is not allowed: {name!r} is trained here with its main classifier alone")
        if not pretrained:  # torchvision's published weights hold the heads, which are removed below
            arguments["aux_logits"] = False
            arguments.setdefault("init_weights", True)  # the present default; without it torchvision warns
    given: dict[str, Any] = {"name": name, "weights": "DEFAULT" if pretrained else None}
    if not pretrained:
        given["num_classes"] = num_classes
    try:
        model = construct(f"torchvision:{name}", torchvision.models.get_model, given, arguments)
    except OSError as error:
        if not pretrained:
            raise
        raise no_download(f"torchvision:{name}", error) from error

    if in_channels == 3:
        preset = torchvision.models.get_model_weights(name)["DEFAULT"].transforms()
        # In timm's format, and as there also without the weights: the normalisation that the published ones need.
        model.__dict__["pretrained_cfg"] = {"mean": tuple(preset.mean), "std": tuple(preset.std)}
    if pretrained:
        for head in _AUXILIARY_HEADS.get(name, ()):
            setattr(model, head, None)
            model.aux_logits = False  # type: ignore[assignment]
        _resize_classifier(model, num_classes)
        # The weights bring two settings that the same network without them would lack.
        if getattr(model, "transform_input", False):
            arguments["transform_input"] = True
        if getattr(model, "image_size", 224) != 224:
            arguments["image_size"] = model.image_size
    elif in_channels != 3:
        _replace_first_conv(model, in_channels)
    return model, arguments


def _resize_classifier(model: nn.Module, num_classes: int) -> None:
    path = classifier_path(model)
    layer = model.get_submodule(path) if path is not None else None
    if isinstance(layer, nn.Linear):
        if layer.out_features != num_classes:
            model.set_submodule(str(path), nn.Linear(layer.in_features, num_classes, bias=layer.bias is not None))
    elif isinstance(layer, nn.Conv2d):
        if layer.out_channels != num_classes:
            model.set_submodule(str(path), nn.Conv2d(layer.in_channels, num_classes, 1, bias=layer.bias is not None))
    else:
        raise UsageError(f"num_classes={num_classes}: no classifier found in {type(model).__name__} to replace")


def _replace_first_conv(model: nn.Module, in_channels: int) -> None:
    for path, conv in model.named_modules():
        if isinstance(conv, nn.Conv2d) and conv.in_channels == 3:
            fresh = nn.Conv2d(
                in_channels,
                conv.out_channels,
                conv.kernel_size,  # type: ignore[arg-type]
                conv.stride,  # type: ignore[arg-type]
                conv.padding,  # type: ignore[arg-type]
                conv.dilation,  # type: ignore[arg-type]
                bias=conv.bias is not None,
                padding_mode=conv.padding_mode,
            )
            nn.init.kaiming_normal_(fresh.weight, mode="fan_out", nonlinearity="relu")
            if fresh.bias is not None:
                nn.init.zeros_(fresh.bias)
            model.set_submodule(path, fresh)
            return
    raise UsageError(f"in_channels={in_channels}: {type(model).__name__} has no convolution over 3 channels to replace")
