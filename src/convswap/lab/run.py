"""Running one trial. The result depends on the trial's description alone, and is kept in a directory."""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .._version import __version__
from ..errors import DataError, StoreError
from .build import build_model, card_of_trial, example_of
from .files import read_object, write_atomic
from .predictions import keep_predictions
from .teacher import build_teacher
from .trial import Trial

if TYPE_CHECKING:
    from torch import nn

    from ..data import Data

DESCRIPTION, CHECKPOINT, MODEL, RESULT = "trial.json", "checkpoint.pt", "model.safetensors", "result.json"


def run_trial(
    trial: Trial,
    directory: str | Path,
    *,
    data: Data | None = None,
    data_root: str | Path | None = None,
    device: str = "auto",
    skip_unreadable: bool = False,
    progress: bool = True,
    label: str = "",
) -> dict[str, Any]:
    """Run a trial from the start or from its checkpoint, or return the result of a finished trial.

    The host's weights are drawn from the trial's seed before anything is swapped. All units of one seed therefore start
    from the same network and see the same images in the same order. A trial of `conv` trains the network as it is. At
    the end, `model.safetensors`, `predictions.npz` and `result.json` are written and the checkpoint is removed.

    Args:
        trial: the trial to run.
        directory: the folder of the trial's files. It belongs to this trial alone.
        data: the trial's data, if already loaded.
        data_root: the folder of the data sets, see `load_data`.
        device: see `convswap.train.fit`.
        skip_unreadable: see `load_data`.
        progress: show progress.
        label: a few words for the progress bar.

    Returns:
        A dictionary for JSON: `test_accuracy`, `test_loss`, `history`, `data` (`Description.as_dict()`),
        `parameters`, `macs`, `cost` (see `count_costs`), `plan` (None for `conv`), `warnings` (see `FitResult`),
        timings, machine and versions.

    Raises:
        StoreError: the directory belongs to another trial, a file in it is damaged, or the disk is full.
        DataError: the data, the weights file, the parent or the network are no longer the described ones.
    """
    folder = Path(directory)
    _claim(folder, trial)
    if (folder / RESULT).exists():
        return _finished(folder)
    data = trial_data(trial, data, root=data_root, skip_unreadable=skip_unreadable, cache=folder)
    return _train(trial, folder, data, device, progress, label)


def count_costs(model: nn.Module, example: torch.Tensor) -> dict[str, Any]:
    """The cost of one image's inference: `parameters`, `macs`, and `cost`, the whole vector as `Cost.as_dict()`.

    A user's own model may hold an operator without a formula. Then `cost` is None, `cost_problem` holds the reason, and
    `macs` counts the multiply-accumulates that torch knows of.
    """
    from ..measure.costs.model import CostError, cost, count_macs, count_parameters

    parameters = count_parameters(model)
    try:
        found = cost(model, example, fused=False)
    except CostError as error:
        return {
            "parameters": parameters,
            "macs": count_macs(model, example),
            "cost": None,
            "cost_problem": str(error),
        }
    return {"parameters": parameters, "macs": found.counts.macs, "cost": found.as_dict()}


def _train(trial: Trial, folder: Path, data: Data, device: str, progress: bool, label: str) -> dict[str, Any]:
    from ..models import save
    from ..train import Recipe, fit

    model, plan = build_model(trial, data)
    recipe = Recipe.from_dict(trial.recipe)
    # Counting comes before the training: a failure should show now, not hours later.
    costs = count_costs(model, example_of(data))
    fitted = fit(
        model,
        data,
        recipe,
        seed=trial.seed,
        directory=folder,
        progress=progress,
        label=label,
        device=device,
        teacher=build_teacher(trial, data),
    )
    keep_predictions(folder, model, data, recipe, fitted)
    versions = installed_versions()
    result = {
        "trial_id": trial.id,
        "test_accuracy": fitted.test_accuracy,
        "test_loss": fitted.test_loss,
        "history": fitted.history,
        "data": None if data.description is None else data.description.as_dict(),
        **costs,
        "plan": plan,
        "seconds": fitted.seconds,
        "images_per_second": fitted.images_per_second,
        "precision": fitted.precision,
        "machine": describe_machine(fitted.device),
        "versions": versions,
        "warnings": list(fitted.warnings),
    }
    card = card_of_trial(trial, data, accuracy=fitted.test_accuracy, versions=versions)
    save(model, folder / MODEL, card=card)
    _write_json(folder / RESULT, result)  # the last file: where it exists, the trial is finished
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return result


def _claim(folder: Path, trial: Trial) -> None:
    """Claim the folder for the trial, or check that it belongs to the trial."""
    description = folder / DESCRIPTION
    if description.exists():
        fix = f"delete {description} if the folder belongs to trial {trial.id}"
        owner = Trial.from_json(json.dumps(read_object(description, fix)))
        if owner.id != trial.id:
            changed = ", ".join(owner.differences(trial))
            raise StoreError(
                f"{folder} belongs to trial {owner.id}, not to {trial.id} (another {changed}); choose another folder"
            )
    else:
        _write_json(description, json.loads(trial.to_json()))


def _finished(folder: Path) -> dict[str, Any]:
    result = read_object(folder / RESULT, "delete it: the trial then resumes from its last checkpoint or starts again")
    (folder / CHECKPOINT).unlink(missing_ok=True)  # left by a process that died before removing it
    return result


def trial_data(
    trial: Trial,
    data: Data | None = None,
    *,
    root: str | Path | None = None,
    skip_unreadable: bool = False,
    download: bool = True,
    cache: Path | None = None,
) -> Data:
    """The data a trial describes, checked by fingerprint, with the trial's normalization.

    Raises:
        DataError: the data are no longer the described ones, or have other channels than the normalization.
    """
    if data is None:
        data = load_trial_data(trial, root, skip_unreadable, download=download, cache=cache)
    if data.fingerprint != trial.data_fingerprint:
        raise DataError(
            f"data {trial.data!r} changed since the trial was described (fingerprint {data.fingerprint[:12]}, "
            f"described {trial.data_fingerprint[:12]}); restore the files, or describe a new trial"
        )
    if trial.normalization is None:
        return data
    mean, std = (tuple(trial.normalization[key]) for key in ("mean", "std"))
    if not len(mean) == len(std) == data.channels:
        raise DataError(f"normalization={trial.normalization!r} does not fit data of {data.channels} channels")
    return replace(data, mean=mean, std=std)


def load_trial_data(
    trial: Trial, root: str | Path | None, skip_unreadable: bool, *, download: bool = True, cache: Path | None = None
) -> Data:
    """Load what now lies where the trial's data lay, with the trial's options."""
    from ..data import load_data
    from ..data.options import DataOptions

    return load_data(
        trial.data,
        root=root,
        image_size=trial.image_size,
        skip_unreadable=skip_unreadable,
        download=download,
        cache=cache,
        **DataOptions.from_dict(trial.data_options).as_dict(),
    )


def _write_json(path: Path, value: dict[str, Any]) -> None:
    write_atomic(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False))


def describe_machine(device: str) -> dict[str, Any]:
    """The hardware that trained: system, processor, threads and device, without the machine's name."""
    cuda = device.startswith("cuda")
    abilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": str(abilities.get("cpu_name") or platform.processor() or platform.machine()),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(torch.device(device)) if cuda else device,
    }


def installed_versions() -> dict[str, str]:
    """Versions of the packages that a result depends on."""
    found = {"convswap": __version__, "python": ".".join(map(str, sys.version_info[:3])), "torch": torch.__version__}
    for name in ("timm", "torchvision", "lightning-fabric"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # not everybody uses torchvision's models
    return found
