"""The options that several verbs share, written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_TRAINING = "Training"
_START = "Starting weights"
_DATA = "Data"

Where = Annotated[
    str | None,
    typer.Option(
        metavar="SELECTION",
        help="Which convolutions, e.g. '3x3 & !first' or 'layer[34].*'. Default: each unit's own places.",
    ),
]
UnitOptions = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="UNIT.KEY=VALUE", help="An option of a unit; repeat for several."),
]
Source = Annotated[
    str,
    typer.Argument(
        metavar="RUN|MODEL", help="A trial's folder, a .safetensors file of convswap.save, or a model's name."
    ),
]
Classes = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Classes of a named model. Default: 1000, or CIFAR's 10.")
]
InputSize = Annotated[
    int | None, typer.Option(min=1, metavar="PIXELS", help="Side of the input. Default: the run's, else the model's.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Weights = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Start from trained weights: safetensors, or a state dict saved by torch.",
        rich_help_panel=_START,
    ),
]
Pretrained = Annotated[
    bool, typer.Option("--pretrained", help="Download the weights published for the model.", rich_help_panel=_START)
]
Normalization = Annotated[
    str,
    typer.Option(
        metavar="CHOICE",
        help="How images are normalised: auto (as trained weights declare, else the data's own), model, data, "
        "or numbers MEAN,.../STD,...",
        rich_help_panel=_START,
    ),
]
_NAME = typer.Option(
    metavar="NAME",
    help="digits, cifar10, cifar100, mnist, fashion_mnist, npz:FILE or imagefolder:FOLDER.",
    rich_help_panel=_DATA,
)
DataName = Annotated[str, _NAME]
DataNameOrRuns = Annotated[str | None, _NAME]
"""The data, which a verb that goes on from a run knows without being told."""
OwnModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODULE:FUNCTION",
        help="For a model of your own: its function again. A file alone never decides what is imported.",
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        envvar="CONVSWAP_DATA",
        help="Folder to search for data sets and to download them to.",
        rich_help_panel=_DATA,
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(min=1, metavar="PIXELS", help="Bring images to this size. Default: their own.", rich_help_panel=_DATA),
]
SkipUnreadable = Annotated[
    bool,
    typer.Option("--skip-unreadable", help="Leave out image files that cannot be read.", rich_help_panel=_DATA),
]
Channels = Annotated[
    str,
    typer.Option(
        metavar="CHOICE", help="Of a folder's images: auto or rgb (three channels), gray (one).", rich_help_panel=_DATA
    ),
]
Background = Annotated[
    str,
    typer.Option(
        metavar="COLOUR",
        help="Behind transparent pixels of a folder's images: #rrggbb or a name such as black.",
        rich_help_panel=_DATA,
    ),
]
EvalSplit = Annotated[
    str,
    typer.Option(
        metavar="PART",
        help="The part that accuracy is reported on: val or test. auto: test, and val is watched in training.",
        rich_help_panel=_DATA,
    ),
]
HoldOut = Annotated[
    float,
    typer.Option(
        metavar="SHARE",
        help="Share of the training images for validation, where the data have no such part, e.g. 0.1. Default: none.",
        show_default=False,
        rich_help_panel=_DATA,
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Default: the recipe's number.", rich_help_panel=_TRAINING),
]
RecipeName = Annotated[
    str,
    typer.Option(
        "--recipe",
        metavar="NAME",
        help="A recipe of `convswap recipes`. auto: chosen by data and starting weights.",
        rich_help_panel=_TRAINING,
    ),
]
BatchSize = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Default: the recipe's.", rich_help_panel=_TRAINING)
]
LearningRate = Annotated[
    float | None,
    typer.Option(metavar="X", help="Peak of the schedule. Default: the recipe's.", rich_help_panel=_TRAINING),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Any field of the recipe, as JSON: --set optimizer=adamw --set ema=0.999; repeat for several.",
        rich_help_panel=_TRAINING,
    ),
]
Freeze = Annotated[
    str | None,
    typer.Option(
        metavar="SELECTION",
        help="Layers that stay as they are, BatchNorm's statistics too, e.g. 'layer[12].*'.",
        rich_help_panel=_TRAINING,
    ),
]
Compile = Annotated[bool, typer.Option("--compile", help="Train through torch.compile.", rich_help_panel=_TRAINING)]
DEFAULT_MARGIN = 0.5
Margin = Annotated[
    float,
    typer.Option(
        metavar="POINTS", help="The largest difference of accuracy that does not matter, for the test of equality."
    ),
]
Regularize = Annotated[
    str,
    typer.Option(
        metavar="A,B,C",
        help="Regularisers, see `convswap regularizers`, e.g. cutout,mixup:alpha=0.2. none: without any. Default: the "
        "recipe's.",
        rich_help_panel=_TRAINING,
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps.", rich_help_panel=_TRAINING)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only results.")]
