"""`convswap remove-residuals`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .arguments import AsJson, Classes, InputSize, OwnModel, Pretrained, Source, Weights
from .source import example_for, open_source

NAME = "remove-residuals"


def run(
    source: Source,
    where: Annotated[
        str,
        typer.Option(metavar="SELECTION", help="Which residual blocks, e.g. 'layer[34].*' or 'same'."),
    ] = "all",
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Do it, prove it, and save the network here. Default: print the plan only."),
    ] = None,
    weights: Weights = None,
    pretrained: Pretrained = False,
    classes: Classes = None,
    image_size: InputSize = None,
    model: OwnModel = None,
    as_json: AsJson = False,
) -> None:
    """Show what removing a network's residual connections would cost, and with --out do it: a plain chain remains.

    Every residual block becomes convolutions that carry the shortcut in channels of their own. The output is the same:
    both networks run on the same input in float64, and a difference above 1e-9 is an error. The chain is dearer until
    it is pruned.

    \b
    Examples:
      convswap remove-residuals resnet18
      convswap remove-residuals cifar_resnet20 --weights resnet20.th --out chain.safetensors
      convswap remove-residuals convswap-lab/trials/0f3a5d6c7b8e9a01 --where 'layer3.*' --json
    """
    from ..models import save
    from ..models.card import card_of
    from ..surgery import plan_remove_residuals

    network = open_source(source, out, weights=weights, pretrained=pretrained, classes=classes, model=model)
    plan = plan_remove_residuals(network, example_for(network, card_of(network), image_size), where=where)
    print(plan.to_json() if as_json else plan)
    if out is None:
        return
    chain, difference, precision = plan.apply_measured()
    save(chain, out)
    if not as_json:
        print(f"largest relative difference in {precision} {difference:.1e}")
        print(f"network without these residual connections: {out}")
