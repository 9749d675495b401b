"""`convswap compare`: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .arguments import (
    DEFAULT_MARGIN,
    Background,
    BatchSize,
    Channels,
    Compile,
    DataName,
    DataRoot,
    Device,
    Epochs,
    EvalSplit,
    Freeze,
    HoldOut,
    ImageSize,
    LearningRate,
    Margin,
    Normalization,
    Pretrained,
    Quiet,
    RecipeName,
    Regularize,
    Settings,
    SkipUnreadable,
    UnitOptions,
    Weights,
)
from .axes import UNIT, chosen_axis
from .grid import check, chosen_recipe, make_trials, suitable_process
from .options import existing_file, parse_options, parse_units, parse_where
from .output import command_line, fail_if_any_failed, print_comparison, print_troubles, tell_data
from .teacher import Distill, Teacher, described_teacher, taught, with_teacher

if TYPE_CHECKING:
    from ..train import Recipe

NAME = "compare"
_AXIS = "What varies"
DEFAULT_MODEL = "cifar_resnet8"


def run(
    context: typer.Context,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help=f"timm names, torchvision:NAME, or package.module:function. Default: {DEFAULT_MODEL}.",
            show_default=False,
        ),
    ] = None,
    units: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C",
            help="Units to compare, see `convswap units`. conv is always among them. mixed:FILE.json is several units "
            "in one network. Default: conv,circle,ic, or conv alone where something else varies.",
            show_default=False,
        ),
    ] = None,
    vary: Annotated[
        str,
        typer.Option(
            metavar="AXIS",
            help="What is compared: unit, recipe, regularize (each of --regularize by itself, a+b for both at once) or "
            "learning_rate. The first value is the baseline (conv among units).",
            rich_help_panel=_AXIS,
        ),
    ] = "unit",
    recipes: Annotated[
        str | None,
        typer.Option(metavar="A,B,C", help="Recipes for --vary recipe, see --recipe.", rich_help_panel=_AXIS),
    ] = None,
    learning_rates: Annotated[
        str | None,
        typer.Option(metavar="X,Y,Z", help="For --vary learning_rate.", rich_help_panel=_AXIS),
    ] = None,
    margin: Margin = DEFAULT_MARGIN,
    data: DataName = "digits",
    epochs: Epochs = None,
    seeds: Annotated[
        int, typer.Option(min=1, metavar="N", help="Trainings of each unit. Below 3 nothing is ranked.")
    ] = 3,
    lab: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Folder for all results. An interrupted comparison resumes there.")
    ] = Path("convswap-lab"),
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[UNIT=]SELECTION",
            help="Which convolutions, e.g. '3x3 & !first'; 'circle=layer[34].*' for one unit, repeat for several. "
            "Default: each unit's own places.",
        ),
    ] = None,
    option: UnitOptions = None,
    weights: Weights = None,
    pretrained: Pretrained = False,
    normalization: Normalization = "auto",
    image_size: ImageSize = None,
    recipe: RecipeName = "auto",
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    settings: Settings = None,
    freeze: Freeze = None,
    compile: Compile = False,
    regularize: Regularize = "",
    teacher: Teacher = None,
    distill: Distill = "",
    data_root: DataRoot = None,
    skip_unreadable: SkipUnreadable = False,
    channels: Channels = "auto",
    background: Background = "white",
    eval_split: EvalSplit = "auto",
    hold_out: HoldOut = 0.0,
    device: Device = "auto",
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Train the failed trials again.")] = False,
    allow_failed: Annotated[
        bool, typer.Option("--allow-failed", help="Exit with 0 although trials failed, if any finished.")
    ] = False,
    latency: Annotated[bool, typer.Option(help="Measure latency after the trainings.")] = True,
    robustness: Annotated[
        str,
        typer.Option(
            metavar="PROFILE",
            help="After the trainings, pass corrupted, compressed, shifted and turned test images: none, quick (up to "
            "1,000 images) or full (all images, hours for large networks).",
        ),
    ] = "none",
    pictures: Annotated[
        bool, typer.Option(help="Show in the report what the networks learned: kernels, receptive fields, maps.")
    ] = True,
    quiet: Quiet = False,
) -> None:
    """Train models x units x seeds under one recipe, show the table and write a report.

    Without arguments: a small ResNet on handwritten digits, three units, three seeds, about a minute. The same command
    again resumes where it stopped, and trains nothing twice. The exit code is 1 if a trial failed.

    \b
    Examples:
      convswap compare
      convswap compare cifar_resnet20 --data cifar10 --epochs 8 --seeds 5 --lab lab/cifar
      convswap compare resnet18 --data imagefolder:photos --image-size 128 --pretrained
      convswap compare --units conv,circle --option circle.radius=learnable --where 'layer3.*'
      convswap compare --robustness quick
      convswap compare --vary learning_rate --learning-rates 0.2,0.1,0.4 --seeds 5
      convswap compare --vary regularize --regularize none,cutout,mixup,cutout+mixup --data cifar10
    """
    from ..data import load_data
    from ..errors import check_choice
    from ..lab import BASELINE, run_grid
    from ..lab.build import example_of
    from ..lab.changes import tell_changes
    from ..lab.decide import check_margin
    from ..lab.pictures import make_pictures
    from ..lab.publish import note_command, publish
    from ..lab.robustness.files import CHOICES, NONE, measure_robustness
    from ..lab.timing import measure_lab

    check_choice("--robustness", robustness, CHOICES)
    smallest = check_margin(margin)
    if units is None:
        units = "conv,circle,ic" if vary == UNIT else BASELINE
    names: dict[str, dict[str, Any]] = {} if vary != UNIT else {BASELINE: {}}
    names |= parse_units(units)
    options = parse_options(option or [], names)
    places = parse_where(where or [], names)
    existing_file("--weights", weights)
    loaded = load_data(
        data,
        root=data_root,
        image_size=image_size,
        skip_unreadable=skip_unreadable,
        channels=channels,
        background=background,
        eval_split=eval_split,
        hold_out=hold_out,
        cache=lab,
    )
    trained = pretrained or weights is not None
    given: dict[str, Any] = {"name": recipe, "epochs": epochs, "batch_size": batch_size}
    given |= {"learning_rate": learning_rate, "settings": settings, "compile": compile, "freeze": freeze}
    varied = {"recipe": recipes, "learning_rate": learning_rates}
    if vary == "regularize":
        varied["regularize"] = regularize or None
    else:
        given["regularize"] = with_teacher(regularize, teacher, distill)

    def changed(**changes: Any) -> Recipe:
        return chosen_recipe(loaded, trained=trained, **given | changes)

    axis = chosen_axis(vary, varied, changed)
    chosen = changed()
    trials = make_trials(
        models or [DEFAULT_MODEL],
        list(names),
        options,
        range(seeds),
        where=places,
        data=loaded,
        image_size=image_size,
        recipe=chosen,
        weights=weights,
        pretrained=pretrained,
        normalization=normalization,
    )
    if axis is not None:
        trials = axis.vary(trials)
    if teacher is not None:
        trials = taught(trials, described_teacher(teacher))
    check(trials, loaded, device)
    tell_data(loaded, quiet)
    tell_changes(lab, trials, quiet)
    with suitable_process(loaded):
        rows = run_grid(
            trials,
            lab,
            data_root=data_root,
            device=device,
            skip_unreadable=skip_unreadable,
            retry_failed=retry_failed,
            progress=not quiet,
            axis=axis,
        )
    note_command(lab, command_line(context))
    measure_lab(lab, rows, example_of(loaded), latency=latency)
    if robustness != NONE:
        measure_robustness(lab, rows, loaded, robustness, device=device, progress=not quiet)
    if pictures:
        make_pictures(lab, rows, loaded, progress=not quiet)
    summary, page = publish(lab, margin=smallest)
    print_comparison(summary, page)
    print_troubles(rows)
    fail_if_any_failed(rows, lab, allowed=allow_failed)
