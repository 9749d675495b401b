"""`convswap replace-pooling`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from .arguments import Pretrained, Weights
from .options import existing_file

if TYPE_CHECKING:
    from torch import Tensor, nn

NAME = "replace-pooling"


def run(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="timm name, torchvision:NAME, or package.module:function.")
    ],
    by: Annotated[
        str,
        typer.Option(metavar="FORM", help="conv (a strided one in its place) or strided_conv (the one before it)."),
    ] = "conv",
    where: Annotated[
        str,
        typer.Option(metavar="SELECTION", help="Which max-poolings: all, first, last, or paths, e.g. 'features.*'."),
    ] = "all",
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Do it and save the network here. Default: print the plan only."),
    ] = None,
    start: Annotated[
        str, typer.Option(metavar="START", help="New convolutions start as average pooling (warm) or drawn (fresh).")
    ] = "warm",
    weights: Weights = None,
    pretrained: Pretrained = False,
    num_classes: Annotated[
        int, typer.Option(min=1, metavar="N", help="Outputs of the classifier.", show_default=True)
    ] = 1000,
    image_size: Annotated[
        int | None, typer.Option(min=1, metavar="PIXELS", help="Side of the input. Default: the model's.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show what convolutions in the place of max-pooling would cost, and with --out do it.

    No convolution computes a maximum: the plan says how far off each start is, and the network must be trained. The
    saved one is trained by convswap train --from FILE.

    \b
    Examples:
      convswap replace-pooling torchvision:vgg11
      convswap replace-pooling resnet18 --by conv --num-classes 10 --out resnet18-conv.safetensors
      convswap replace-pooling torchvision:alexnet --by strided_conv --where 'last' --json
    """
    from ..models import create_model, save
    from ..surgery import plan_replace_pooling

    if out is not None and out.is_dir():
        raise UsageError(f"--out {out}: is a folder; name a file, such as {out / 'model.safetensors'}")
    existing_file("--weights", weights)
    network = create_model(model, num_classes=num_classes, pretrained=pretrained, weights=weights).eval()
    form: Any = by
    plan = plan_replace_pooling(network, form, where=where, start=start, example_input=_example(network, image_size))
    print(plan.to_json() if as_json else plan)
    if out is None:
        return
    save(plan.apply(), out)
    if not as_json:
        print(f"network without these poolings: {out}")


def _example(network: nn.Module, image_size: int | None) -> Tensor:
    """Noise of the size the model declares. The start errors are those on noise."""
    import torch

    declared: Any = getattr(network, "pretrained_cfg", None) or {}
    channels, height, width = declared.get("input_size", (3, 224, 224))
    shape = (1, channels, image_size or height, image_size or width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))
