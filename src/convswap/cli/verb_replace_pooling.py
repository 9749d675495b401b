"""`convswap replace-pooling`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .arguments import AsJson, Classes, InputSize, OwnModel, Pretrained, Source, Weights
from .source import example_for, open_source

NAME = "replace-pooling"


def run(
    source: Source,
    by: Annotated[
        str,
        typer.Option(metavar="FORM", help="conv (a strided one in its place) or strided_conv (the one before it)."),
    ] = "conv",
    where: Annotated[
        str,
        typer.Option(metavar="SELECTION", help="Which max-poolings: all, first, last, or paths, e.g. 'features.*'."),
    ] = "all",
    start: Annotated[
        str, typer.Option(metavar="START", help="New convolutions start as average pooling (warm) or drawn (fresh).")
    ] = "warm",
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Do it and save the network here. Default: print the plan only."),
    ] = None,
    weights: Weights = None,
    pretrained: Pretrained = False,
    classes: Classes = None,
    image_size: InputSize = None,
    model: OwnModel = None,
    as_json: AsJson = False,
) -> None:
    """Show what convolutions in the place of max-pooling would cost, and with --out do it.

    No convolution computes a maximum: the plan says how far off each start is (on noise), and the network must be
    trained. The saved one is trained by convswap train --from FILE.

    \b
    Examples:
      convswap replace-pooling torchvision:vgg11
      convswap replace-pooling resnet18 --by conv --classes 10 --out resnet18-conv.safetensors
      convswap replace-pooling convswap-lab/trials/0f3a5d6c7b8e9a01 --by strided_conv --where last --json
    """
    from ..models import save
    from ..models.card import card_of
    from ..surgery import plan_replace_pooling

    network = open_source(source, out, weights=weights, pretrained=pretrained, classes=classes, model=model)
    form: Any = by
    example = example_for(network, card_of(network), image_size)
    plan = plan_replace_pooling(network, form, where=where, start=start, example_input=example)
    print(plan.to_json() if as_json else plan)
    if out is None:
        return
    save(plan.apply(), out)
    if not as_json:
        print(f"network without these poolings: {out}")
