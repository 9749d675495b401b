"""`convswap train`."""

from __future__ import annotations

import glob
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from .arguments import (
    Background,
    BatchSize,
    Channels,
    Compile,
    DataNameOrRuns,
    DataRoot,
    Device,
    Epochs,
    EvalSplit,
    Freeze,
    HoldOut,
    ImageSize,
    LearningRate,
    Normalization,
    Pretrained,
    Quiet,
    RecipeName,
    Regularize,
    Settings,
    SkipUnreadable,
    UnitOptions,
    Weights,
    Where,
)
from .grid import Parent, check, chosen_recipe, make_trials, suitable_process
from .options import existing_file, given_options, parse_options, parse_units, refuse_places
from .output import print_warnings, tell_data
from .saved import find_saved, next_command, open_saved, reading, side_for
from .teacher import Distill, Teacher, described_teacher, taught, with_teacher

if TYPE_CHECKING:
    from ..lab import Trial

NAME = "train"
_log = logging.getLogger("convswap")


def run(
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="timm name, torchvision:NAME, or package.module:function.")
    ] = None,
    data: DataNameOrRuns = None,
    unit: Annotated[
        str, typer.Option(metavar="UNIT", help="Unit to swap in, see `convswap units`, or mixed:FILE.json.")
    ] = "conv",
    where: Where = None,
    option: UnitOptions = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RUN",
            help="Go on from a run or saved model, with its units and its data. --unit swaps in another on top.",
            rich_help_panel="Starting weights",
        ),
    ] = None,
    weights: Weights = None,
    pretrained: Pretrained = False,
    normalization: Normalization = "auto",
    recipe: RecipeName = "auto",
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    settings: Settings = None,
    freeze: Freeze = None,
    compile: Compile = False,
    regularize: Regularize = "",
    teacher: Teacher = None,
    distill: Distill = "",
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
    hold_out: HoldOut = 0.0,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Train one network, from scratch or from trained weights, and keep it.

    The same command again resumes where it stopped. A finished run is only shown. --from goes on from a finished run
    as a new one, under the recipe for fine-tuning.

    \b
    Examples:
      convswap train --model cifar_resnet20 --data cifar10 --epochs 8
      convswap train --model cifar_resnet20 --weights resnet20.th --unit ic --data cifar10 --epochs 2
      convswap train --model torchvision:resnet18 --pretrained --data imagefolder:photos --image-size 128
      convswap train --from runs/bees --epochs 20
    """
    from ..data import load_data
    from ..lab import run_trial
    from ..train.interrupts import requests_interrupt

    names = parse_units(unit)
    if len(names) > 1:
        raise UsageError(f"--unit {unit!r}: name one unit; several are compared by convswap compare")
    options = parse_options(option or [], names)
    refuse_places(where, names)
    existing_file("--weights", weights)
    parent = None
    how: dict[str, Any] = {
        "channels": channels,
        "background": background,
        "eval_split": eval_split,
        "hold_out": hold_out,
    }
    if source is not None:
        parent = _parent(source, model, data, image_size)
        model, data, image_size = parent.model, parent.data, parent.image_size
        how = parent.reading | given_options(how)
    if model is None or data is None:
        missing = "--model" if model is None else "--data"
        raise UsageError(f"missing option '{missing}'; see convswap train --help")
    loaded = load_data(
        data,
        root=data_root,
        image_size=image_size,
        skip_unreadable=skip_unreadable,
        cache=out or Path("runs"),
        **how,
    )
    trained = pretrained or weights is not None or parent is not None
    chosen = chosen_recipe(
        loaded,
        name=recipe,
        trained=trained,
        settings=settings,
        compile=compile,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        freeze=freeze,
        regularize=with_teacher(regularize, teacher, distill),
    )
    (trial,) = make_trials(
        [model],
        list(names),
        options,
        range(seed, seed + 1),
        where=dict.fromkeys(names, where),
        data=loaded,
        image_size=image_size,
        recipe=chosen,
        weights=weights,
        pretrained=pretrained,
        normalization=normalization,
        parent=parent,
    )
    if teacher is not None:
        (trial,) = taught([trial], described_teacher(teacher))
    check([trial], loaded, device)
    tell_data(loaded, quiet)
    folder = out or _folder(trial)
    try:
        with suitable_process(loaded), requests_interrupt():
            result = run_trial(trial, folder, data=loaded, device=device, progress=not quiet)
    except KeyboardInterrupt as error:
        error.add_note(f"run the same command again to resume from the last epoch; everything so far is in {folder}")
        raise
    print(
        f"test accuracy {result['test_accuracy']:.2%} (last epoch), loss {result['test_loss']:.4f}, "
        f"{result['parameters']:,} parameters, {result['seconds']:.0f} s, "
        f"{result['images_per_second']:,.0f} images/s in {result['precision']}"
    )
    print_warnings(result["warnings"])
    print(f"run: {folder}")
    print(f"next: {next_command('fuse', folder, model)}")


def _folder(trial: Trial) -> Path:
    """A folder that a user recognises by its name. The id in it keeps different descriptions apart.

    Where another run differs only in the model's code, a warning says that the training begins again.
    """
    from ..lab import Trial
    from ..lab.changes import changed_code_line

    unit = trial.unit if trial.parent is None else replace(trial, unit_options={}, where=None).label()
    parts = [trial.model, unit, trial.data.rpartition("/")[2], f"seed{trial.seed}"]
    name = "-".join("".join(c if c.isalnum() or c in "._" else "_" for c in part) for part in parts)
    folder = Path("runs") / f"{name}-{trial.id[:6]}"
    if not folder.exists():
        for description in sorted(Path("runs").glob(f"{glob.escape(name)}-*/trial.json")):
            other = Trial.from_json(description.read_text(encoding="utf-8"))
            if trial.differences(other) == ["network"]:
                _log.warning("%s", changed_code_line(trial, other.id))
                break
    return folder


def _parent(source: Path, model: str | None, data: str | None, image_size: int | None) -> Parent:
    """The run to go on from, and the data to train on: the run's unless others are named."""
    from ..lab import describe_parent
    from ..models.card import card_of
    from ..models.saved import built_by
    from ..surgery.history import history_of

    found = find_saved(source)
    network = open_saved(found, model)
    if any(record["kind"] == "fuse" for record in history_of(network)):
        raise UsageError(
            f"--from {source}: holds a fused model, which is for inference; go on from the one before fuse"
        )
    run_id = None if found.trial is None else found.trial.id
    if data is None and found.trial is None:
        raise UsageError(f"--from {source}: is a file, whose data are not known; name them with --data NAME")
    name = data or (found.trial.data if found.trial is not None else "")
    card = card_of(network)
    image_size = side_for(name, card) if image_size is None else image_size
    return Parent(
        describe_parent(found.weights, run_id),
        built_by(found.weights)[0],
        network,
        name,
        image_size,
        reading(name, found, card),
    )
