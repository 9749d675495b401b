"""`convswap plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .arguments import Pretrained, UnitOptions, Weights, Where
from .options import existing_file, parse_options

if TYPE_CHECKING:
    from torch import Tensor, nn

NAME = "plan"


def run(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="timm name, torchvision:NAME, or package.module:function.")
    ],
    unit: Annotated[str, typer.Argument(metavar="UNIT", help="Registry name, see `convswap units`.")],
    where: Where = None,
    option: UnitOptions = None,
    weights: Weights = None,
    pretrained: Pretrained = False,
    num_classes: Annotated[int, typer.Option(min=1, metavar="N", help="Outputs of the classifier.")] = 1000,
    image_size: Annotated[
        int | None, typer.Option(min=1, metavar="PIXELS", help="Side of the input. Default: the model's own.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show what a swap would replace, with parameters and MACs before and after, and what it would skip and why.

    Nothing is changed and nothing is written.

    \b
    Examples:
      convswap plan resnet18 circle
      convswap plan mobilenetv3_small_100 circle --where 'depthwise & 5x5'
      convswap plan torchvision:vgg16_bn ic --option w_init=zero --json
    """
    from ..models import create_model
    from ..surgery import plan_swap
    from ..units import get_unit

    name = get_unit(unit).name
    options = parse_options(option or [], [name])[name]
    existing_file("--weights", weights)
    network = create_model(model, num_classes=num_classes, pretrained=pretrained, weights=weights).eval()
    plan = plan_swap(network, name, where=where, example_input=_example(network, image_size), **options)
    print(plan.to_json() if as_json else plan)


def _example(network: nn.Module, image_size: int | None) -> Tensor:
    import torch

    declared: Any = getattr(network, "pretrained_cfg", None) or {}
    channels, height, width = declared.get("input_size", (3, 224, 224))
    return torch.zeros(1, channels, image_size or height, image_size or width)
