"""`convswap remove-residuals`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .arguments import OwnModel, Pretrained, Weights
from .source import example_for, open_source

NAME = "remove-residuals"


def run(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN|MODEL",
            help="A trial's folder, a .safetensors file of convswap.save, or a model's name.",
        ),
    ],
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
    classes: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Classes of a named model. Default: 1000, or CIFAR's 10.")
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(min=1, metavar="PIXELS", help="Side of the input. Default: the run's, else the model's."),
    ] = None,
    model: OwnModel = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
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
