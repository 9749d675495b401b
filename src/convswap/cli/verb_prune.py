"""`convswap prune`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from .arguments import (
    DataNameOrRuns,
    DataRoot,
    Device,
    ImageSize,
    OwnModel,
    Pretrained,
    Quiet,
    RecipeName,
    Settings,
    Source,
    Weights,
)
from .grid import Parent, check, chosen_recipe, make_trials, suitable_process
from .options import existing_file
from .output import print_accuracy, print_latency, print_warnings, tell_data
from .saved import Saved, data_for, data_of, find_saved, is_folder, open_saved, reading, side_for
from .source import is_path

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..data import Data
    from ..train import Recipe

NAME = "prune"
PRUNED, PLAN = "pruned.safetensors", "plan.json"
_TARGET = "Target"


def run(
    source: Source,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the pruned model and its training go.")],
    data: DataNameOrRuns = None,
    criterion: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="gradient-redundancy, taylor, bn-scale, l1, fpgm or random.", rich_help_panel=_TARGET
        ),
    ] = "gradient-redundancy",
    keep_macs: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE", help="Share of the MACs to keep, or cap (every layer's rank).", rich_help_panel=_TARGET
        ),
    ] = None,
    keep_parameters: Annotated[
        str | None, typer.Option(metavar="SHARE", help="The same of the parameters.", rich_help_panel=_TARGET)
    ] = None,
    keep_latency: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", help="The same of the time for 32 images, measured here.", rich_help_panel=_TARGET
        ),
    ] = None,
    beyond_cap: Annotated[
        bool,
        typer.Option(
            "--beyond-cap", help="Prune below the ranks where the target asks for it.", rich_help_panel=_TARGET
        ),
    ] = False,
    tau: Annotated[
        float,
        typer.Option(
            metavar="NUMBER", help="What the rank leaves out of the eigenvalues' sum.", rich_help_panel=_TARGET
        ),
    ] = 1e-2,
    multiple_of: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Keep a multiple of N channels in every narrowed layer.", rich_help_panel=_TARGET
        ),
    ] = 1,
    where: Annotated[
        str | None, typer.Option(metavar="SELECTION", help="Which convolutions may lose channels. Default: all.")
    ] = None,
    images: Annotated[int, typer.Option(min=1, metavar="N", help="Training images of the calibration set.")] = 1024,
    finetune: Annotated[int, typer.Option(min=0, metavar="EPOCHS", help="Then train on for this long.")] = 0,
    learning_rate: Annotated[float | None, typer.Option(metavar="NUMBER", help="Of that training.")] = None,
    recipe: RecipeName = "auto",
    settings: Settings = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of the training, and of the criterion random.")] = 0,
    weights: Weights = None,
    pretrained: Pretrained = False,
    model: OwnModel = None,
    image_size: ImageSize = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Remove channels of a trained network: a smaller dense network, and its training after that.

    Channels that only go together are found by torch-pruning. The same command again goes on where it stopped.

    \b
    Examples:
      convswap prune convswap-lab/trials/0f3a5d6c7b8e9a01 --keep-macs 0.5 --finetune 5 --out half
      convswap prune model.safetensors --data cifar10 --criterion l1 --keep-parameters 0.3 --out small
      convswap prune cifar_resnet56 --weights resnet56.th --data cifar10 --keep-macs cap --out slim
    """
    network, loaded, found = _source(source, data, weights, pretrained, model, image_size, data_root)
    tell_data(loaded, quiet)
    targets = {"macs": _share("--keep-macs", keep_macs), "parameters": _share("--keep-parameters", keep_parameters)}
    targets["latency"] = keep_latency
    asked: dict[str, Any] = {"criterion": criterion, **targets, "beyond_cap": beyond_cap, "tau": tau, "where": where}
    asked |= {"multiple_of": multiple_of, "seed": seed}
    text = _prune(network, loaded, asked, images, out, _described(source, weights, found))
    print(text)
    pruned = open_saved(Saved(out / PRUNED, None), model)
    _measure(network, pruned, loaded)
    print(f"pruned model: {out / PRUNED}")
    if finetune:
        chosen = chosen_recipe(
            loaded, name=recipe, trained=True, settings=settings, epochs=finetune, learning_rate=learning_rate
        )
        _finetune(pruned, loaded, out, found, chosen, seed, device, quiet)


def _share(option: str, text: str | None) -> float | str | None:
    if text is None or text == "cap":
        return text
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{option} {text}: give a share to keep, such as 0.5, or cap") from None


def _source(
    source: str,
    name: str | None,
    weights: Path | None,
    pretrained: bool,
    model: str | None,
    image_size: int | None,
    root: Path | None,
) -> tuple[nn.Module, Data, Saved | None]:
    """The trained network, its data, and where it was saved (None for a model by name).

    Raises:
        UsageError: there is neither a run nor a model of this name, or no data are named.
    """
    from ..data import load_data
    from ..lab.normalization import choose_normalization
    from ..models import create_model
    from ..models.card import card_of

    existing_file("--weights", weights)
    if is_path(source):
        if weights is not None or pretrained:
            raise UsageError(f"{source} brings its weights; leave --weights and --pretrained out")
        found = find_saved(Path(source))
        network = open_saved(found, model)
        loaded = data_of(found, root) if name is None else data_for(name, found, card_of(network), root)
        if loaded is None:
            raise UsageError(f"{source}: is a file, whose data are not known; name them with --data NAME")
        return network, loaded, found
    if name is None:
        raise UsageError("missing option '--data'; see convswap prune --help")
    if weights is None and not pretrained:
        raise UsageError(f"{source}: there is no such run; for a model by name give --weights FILE or --pretrained")
    loaded = load_data(name, root=root, image_size=image_size, skip_unreadable=True)
    network = create_model(
        source, num_classes=loaded.num_classes, in_channels=loaded.channels, pretrained=pretrained, weights=weights
    ).eval()
    constants = choose_normalization("auto", network, loaded, trained=True)
    if constants is not None:
        loaded = replace(loaded, mean=tuple(constants["mean"]), std=tuple(constants["std"]))
    return network, loaded, None


def _described(source: str, weights: Path | None, found: Saved | None) -> dict[str, Any]:
    """What is pruned, by the contents of its file."""
    from ..lab import describe_weights

    file = found.weights if found is not None else weights
    return {
        "source": None if found is not None else source,
        "sha256": describe_weights(file)["sha256"] if file else None,
    }


def _prune(
    network: nn.Module, data: Data, asked: dict[str, Any], images: int, out: Path, described: dict[str, Any]
) -> str:
    """Prune and save, or read what the same command left. Returns the plan as text.

    Raises:
        UsageError: the folder holds another pruning.
    """
    from ..files import write_atomically
    from ..models import save
    from ..models.card import ModelCard, card_of
    from ..surgery.pruning import plan_prune
    from ..train.calibration import calibration_batches

    request = asked | described | {"images": images, "data": data.fingerprint}
    if (out / PLAN).is_file() and (out / PRUNED).is_file():
        kept = json.loads((out / PLAN).read_text(encoding="utf-8"))
        changed = [name for name in request if kept["request"].get(name) != request[name]]
        if changed:
            raise UsageError(f"--out {out}: holds another pruning (another {', '.join(changed)}); name another folder")
        return str(kept["text"])
    options = dict(asked)
    if options["latency"] is not None:
        options["example_input"] = _batch(data)
    plan = plan_prune(network, calibration_batches(data, images), options.pop("criterion"), **options)
    card = card_of(network) or ModelCard(channels=data.channels, class_names=data.class_names)
    card = replace(card, mean=data.mean, std=data.std, image_size=data.image_size, test_accuracy=None)
    out.mkdir(parents=True, exist_ok=True)
    save(plan.apply().eval(), out / PRUNED, card=card)
    told = {"request": request, "text": str(plan), "plan": plan.as_dict()}
    write_atomically(out / PLAN, json.dumps(told, indent=1).encode())
    return str(plan)


def _batch(data: Data) -> Tensor:
    """What is timed: 32 images of noise."""
    import torch

    return torch.randn(32, data.channels, *data.image_size, generator=torch.Generator().manual_seed(0))


def _measure(network: nn.Module, pruned: nn.Module, data: Data) -> None:
    print_latency(network, pruned, _batch(data))
    print_accuracy(data, network, pruned)


def _finetune(
    network: nn.Module,
    data: Data,
    out: Path,
    found: Saved | None,
    recipe: Recipe,
    seed: int,
    device: str,
    quiet: bool,
) -> None:
    """Train on as `convswap train --from` does."""
    from ..lab import describe_parent, run_trial
    from ..models.card import card_of
    from ..models.saved import built_by
    from ..train.interrupts import requests_interrupt

    built, _ = built_by(out / PRUNED)
    card = card_of(network)
    how = {} if found is None else reading(data.name, found, card)
    side = side_for(data.name, card) if is_folder(data.name) else None
    parent = Parent(describe_parent(out / PRUNED, None), built, network, data.name, side, how)
    (trial,) = make_trials(
        [built],
        ["conv"],
        {"conv": {}},
        range(seed, seed + 1),
        where={"conv": None},
        data=data,
        image_size=side,
        recipe=recipe,
        weights=None,
        pretrained=False,
        normalization="auto",
        parent=parent,
    )
    check([trial], data, device)
    folder = out / "finetuned"
    try:
        with suitable_process(data), requests_interrupt():
            result = run_trial(trial, folder, data=data, device=device, progress=not quiet)
    except KeyboardInterrupt as error:
        error.add_note(f"run the same command again to resume from the last epoch; everything so far is in {folder}")
        raise
    print(f"test accuracy after {recipe.epochs} epochs of fine-tuning {result['test_accuracy']:.2%}")
    print_warnings(result["warnings"])
    print(f"run: {folder}")
