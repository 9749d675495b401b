"""Reading the argument RUN of the verbs: a trial's folder or a saved model, and the data it was trained on."""

from __future__ import annotations

import logging
import shlex
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import StoreError, UsageError

if TYPE_CHECKING:
    from torch import nn

    from ..data import Data
    from ..lab import Trial
    from ..models import ModelCard

_log = logging.getLogger("convswap")


@dataclass(frozen=True)
class Saved:
    """A saved model and, for a run, the trial that made it."""

    weights: Path
    trial: Trial | None

    @property
    def output(self) -> Path:
        """The path of the fused form, beside the original."""
        name = "fused" if self.weights.stem == "model" else f"{self.weights.stem}-fused"
        return self.weights.with_name(f"{name}.safetensors")

    def has_changed_code(self) -> bool:
        """Is the source of the user's function, as it is now, another than when the run was described?"""
        from ..lab.network import source_of

        described = None if self.trial is None else self.trial.network
        return bool(self.trial and described and described["source"] not in (None, source_of(self.trial.model)))


def open_saved(found: Saved, model: str | None) -> nn.Module:
    """The model of RUN, in eval mode. `model` is the value of `--model`, which names a user's own function.

    Where the code of that function has changed since the run, a warning says so.

    Raises:
        StoreError: the file cannot be read, or does not fit the function.
        UsageError: `model` is needed and not given.
    """
    try:
        network = load_saved(found.weights, model)
    except StoreError as error:
        if not found.has_changed_code():
            raise
        raise StoreError(f"{error}; {model} has changed since the run: restore the code it was trained with") from error
    if found.has_changed_code():
        _log.warning("%s has changed since this run was trained; its weights still fit", model)
    return network


def load_saved(weights: Path, model: str | None) -> nn.Module:
    """The model of a file, in eval mode. `model` is the value of `--model`, which names a user's own function."""
    from ..models import load
    from ..models.saved import ConstructorNeededError, built_by

    name, _ = built_by(weights)
    try:
        return load(weights, constructor=model).eval()
    except ConstructorNeededError as error:
        raise UsageError(
            f"{str(weights)!r} is built by your function {error.function!r}; give --model {error.function} to load it"
        ) from error
    except UsageError as error:
        if model is not None and model != name:
            raise UsageError(f"--model {model}: {str(weights)!r} is built by {name!r}; leave --model out") from error
        raise


def find_saved(source: Path) -> Saved:
    """The saved model that RUN names.

    Raises:
        UsageError: there is none. The message says what lies there instead.
    """
    from ..lab import Trial

    if not source.exists():
        raise UsageError(f"RUN {source}: does not exist{near(source)}; give a trial's folder or a .safetensors file")
    if source.is_file():
        return Saved(source, None)
    weights, description = source / "model.safetensors", source / "trial.json"
    if not weights.is_file():
        inside = "it is a lab: name one of its trials" if (source / "lab.sqlite").exists() else "is the trial finished?"
        raise UsageError(f"RUN {source}: no model.safetensors in this folder; {inside}")
    trial = Trial.from_json(description.read_text(encoding="utf-8")) if description.is_file() else None
    return Saved(weights, trial)


def near(path: Path) -> str:
    """What lies beside a path that does not exist and is called much alike, as `; did you mean 'run1'?`, or nothing."""
    parent = path.parent
    names = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
    found = [str(parent / name) for name in get_close_matches(path.name, names, n=3, cutoff=0.6)]
    return f"; did you mean {' or '.join(map(repr, found))}?" if found else ""


def no_lab(path: Path) -> StoreError:
    """The error for a lab that does not exist."""
    return StoreError(f"there is no lab at {path}{near(path)}; give the folder of a comparison (its --lab)")


def next_command(verb: str, path: Path, model: str) -> str:
    """A command to go on with, ready to be typed: with `--model` where the model is a user's own function."""
    from ..models.own import is_own

    return shlex.join(["convswap", verb, str(path), *(["--model", model] if is_own(model) else [])])


def data_of(saved: Saved, root: Path | None) -> Data | None:
    """The data a run was trained on, None without a trial."""
    from ..lab.run import trial_data
    from ..lab.store import STORE_FILE

    if saved.trial is None:
        return None
    # Unreadable files were refused or left out when the run began. The fingerprint shows that the rest is unchanged.
    folder = saved.weights.parent
    lab = folder.parent.parent
    kept = lab if (lab / STORE_FILE).is_file() else folder  # where the facts on the files were kept
    return trial_data(saved.trial, root=root, skip_unreadable=True, download=False, cache=kept)


def is_folder(name: str) -> bool:
    """Is this the name of a folder of images, which are read in any size?"""
    return name.startswith("imagefolder:")


def side_for(name: str, card: ModelCard | None) -> int | None:
    """The size in which a folder of images is read for a saved model, None for other data or where it is not known."""
    return card.image_size[0] if is_folder(name) and card is not None and card.image_size is not None else None


def reading(name: str, found: Saved, card: ModelCard | None) -> dict[str, Any]:
    """The options of `load_data` by which other data of the run's kind are read as its own were."""
    if found.trial is not None and found.trial.data.partition(":")[0] == name.partition(":")[0]:
        return dict(found.trial.data_options)
    return {"channels": "gray"} if is_folder(name) and card is not None and card.channels == 1 else {}


def data_for(name: str, found: Saved, card: ModelCard | None, root: Path | None) -> Data:
    """The data of `--data`, read as the saved model's own were: size, colours, background, normalisation.

    Raises:
        UsageError: the data have other classes or channels than the model.
    """
    from ..data import load_data

    size = side_for(name, card)
    data = load_data(name, root=root, image_size=size, skip_unreadable=True, **reading(name, found, card))
    if card is None:
        return data
    if card.channels not in (None, data.channels):
        raise UsageError(
            f"--data {name}: its images have {data.channels} channels, but the model takes {card.channels}"
        )
    if card.class_names is not None and card.class_names != data.class_names:
        theirs, mine = (", ".join(names[:6]) for names in (data.class_names, card.class_names))
        raise UsageError(f"--data {name}: its classes are {theirs}, but the model was trained on {mine}")
    return data if card.mean is None or card.std is None else replace(data, mean=card.mean, std=card.std)
