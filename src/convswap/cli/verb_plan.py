"""`convswap plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from .arguments import (
    AsJson,
    Background,
    Channels,
    DataRoot,
    EvalSplit,
    HoldOut,
    Pretrained,
    UnitOptions,
    Weights,
    Where,
)
from .options import existing_file, parse_options, parse_units, refuse_places
from .output import tell_data

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..data import Data
    from ..surgery import MixedPlan, SwapPlan

NAME = "plan"


def run(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="timm name, torchvision:NAME, or package.module:function.")
    ],
    unit: Annotated[
        str, typer.Argument(metavar="UNIT", help="Registry name, see `convswap units`, or mixed:FILE.json.")
    ],
    where: Where = None,
    option: UnitOptions = None,
    weights: Weights = None,
    pretrained: Pretrained = False,
    num_classes: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Outputs of the classifier. Default: the data's, else 1000.")
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(min=1, metavar="PIXELS", help="Side of the input. Default: the data's, or the model's."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="NAME", help="Data set that gives classes, channels and size, as in train.")
    ] = None,
    data_root: DataRoot = None,
    channels: Channels = "auto",
    background: Background = "white",
    eval_split: EvalSplit = "auto",
    hold_out: HoldOut = 0.0,
    as_json: AsJson = False,
) -> None:
    """Show what a swap would replace, with parameters and MACs before and after, and what it would skip and why.

    Nothing is changed and nothing is written.

    \b
    Examples:
      convswap plan resnet18 circle
      convswap plan mobilenetv3_small_100 circle --where 'depthwise & 5x5'
      convswap plan torchvision:vgg16_bn ic --option w_init=zero --json
      convswap plan resnet18 circle --data imagefolder:photos
      convswap plan resnet18 mixed:plan.json
    """
    from ..data import load_data
    from ..lab.mixed import is_mixed
    from ..models import create_model
    from ..surgery import plan_swap

    names = parse_units(unit)
    if len(names) > 1:
        raise UsageError(f"UNIT {unit!r}: name one unit; for several at once write a mixed plan, mixed:FILE.json")
    ((name, options),) = parse_options(option or [], names).items()
    refuse_places(where, names)
    existing_file("--weights", weights)
    loaded = None
    if data is not None:
        loaded = load_data(
            data,
            root=data_root,
            image_size=image_size,
            skip_unreadable=True,
            channels=channels,
            background=background,
            eval_split=eval_split,
            hold_out=hold_out,
        )
    classes = num_classes or (1000 if loaded is None else loaded.num_classes)
    depth = 3 if loaded is None else loaded.channels
    network = create_model(model, num_classes=classes, in_channels=depth, pretrained=pretrained, weights=weights).eval()
    example = _example(network, image_size, loaded)
    plan: SwapPlan | MixedPlan
    if is_mixed(name):
        plan = plan_swap(network, options, example_input=example)
    else:
        plan = plan_swap(network, name, where=where, example_input=example, **options)
    if loaded is not None:
        tell_data(loaded)
    print(plan.to_json() if as_json else plan)


def _example(network: nn.Module, image_size: int | None, data: Data | None) -> Tensor:
    import torch

    if data is not None:
        return torch.zeros(1, data.channels, *data.image_size)
    declared: Any = getattr(network, "pretrained_cfg", None) or {}
    channels, height, width = declared.get("input_size", (3, 224, 224))
    return torch.zeros(1, channels, image_size or height, image_size or width)
