"""`convswap train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from .arguments import (
    Background,
    BatchSize,
    Channels,
    DataName,
    DataRoot,
    Device,
    Epochs,
    EvalSplit,
    ImageSize,
    LearningRate,
    Normalization,
    Pretrained,
    Quiet,
    RecipeName,
    SkipUnreadable,
    UnitOptions,
    Weights,
    Where,
)
from .grid import check, chosen_recipe, make_trials, suitable_process
from .options import existing_file, parse_options, parse_units
from .output import tell_data

if TYPE_CHECKING:
    from ..lab import Trial

NAME = "train"


def run(
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="timm name, torchvision:NAME, or package.module:function.")
    ],
    data: DataName,
    unit: Annotated[str, typer.Option(metavar="UNIT", help="Unit to swap in, see `convswap units`.")] = "conv",
    where: Where = None,
    option: UnitOptions = None,
    weights: Weights = None,
    pretrained: Pretrained = False,
    normalization: Normalization = "auto",
    recipe: RecipeName = "auto",
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of everything random.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder of the run. Default: runs/MODEL-UNIT-DATA-SEED-ID."),
    ] = None,
    image_size: ImageSize = None,
    data_root: DataRoot = None,
    skip_unreadable: SkipUnreadable = False,
    channels: Channels = "auto",
    background: Background = "white",
    eval_split: EvalSplit = "auto",
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Train one network, from scratch or from trained weights, and keep it.

    The same command again resumes where it stopped. A finished run is only shown.

    \b
    Examples:
      convswap train --model cifar_resnet20 --data cifar10 --epochs 8
      convswap train --model cifar_resnet20 --weights resnet20.th --unit ic --data cifar10 --epochs 2
      convswap train --model torchvision:resnet18 --pretrained --data imagefolder:photos --image-size 128
    """
    from ..data import load_data
    from ..lab import run_trial

    names = parse_units(unit)
    if len(names) > 1:
        raise UsageError(f"--unit {unit!r}: name one unit; several are compared by convswap compare")
    options = parse_options(option or [], names)
    existing_file("--weights", weights)
    loaded = load_data(
        data,
        root=data_root,
        image_size=image_size,
        skip_unreadable=skip_unreadable,
        channels=channels,
        background=background,
        eval_split=eval_split,
        cache=out or Path("runs"),
    )
    trained = pretrained or weights is not None
    chosen = chosen_recipe(
        loaded, name=recipe, trained=trained, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate
    )
    (trial,) = make_trials(
        [model],
        names,
        options,
        range(seed, seed + 1),
        where={names[0]: where},
        data=loaded,
        image_size=image_size,
        recipe=chosen,
        weights=weights,
        pretrained=pretrained,
        normalization=normalization,
    )
    check([trial], loaded, device)
    tell_data(loaded, quiet)
    folder = out or Path("runs") / _name(trial)
    try:
        with suitable_process(loaded):
            result = run_trial(trial, folder, data=loaded, device=device, progress=not quiet)
    except KeyboardInterrupt as error:
        error.add_note(f"run the same command again to resume from the last epoch; everything so far is in {folder}")
        raise
    print(
        f"test accuracy {result['test_accuracy']:.2%} (last epoch), loss {result['test_loss']:.4f}, "
        f"{result['parameters']:,} parameters, {result['seconds']:.0f} s, "
        f"{result['images_per_second']:,.0f} images/s in {result['precision']}"
    )
    print(f"run: {folder}")
    print(f"next: convswap fuse {folder}")


def _name(trial: Trial) -> str:
    """A folder name that a user recognises. The id in it keeps different descriptions apart."""
    parts = [trial.model, trial.unit, trial.data.rpartition("/")[2], f"seed{trial.seed}", trial.id[:6]]
    return "-".join("".join(c if c.isalnum() or c in "._" else "_" for c in part) for part in parts)
