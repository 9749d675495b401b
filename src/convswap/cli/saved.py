"""Reading the argument RUN of the verbs: a trial's folder or a saved model, and the data it was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from ..data import Data
    from ..lab import Trial


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


def load_saved(weights: Path, model: str | None) -> nn.Module:
    """The model of a file, in eval mode. `model` is the value of `--model`, which names a user's own function."""
    from ..models import load
    from ..models.saved import ConstructorNeededError

    try:
        return load(weights, constructor=model).eval()
    except ConstructorNeededError as error:
        raise UsageError(
            f"{str(weights)!r} is built by your function {error.function!r}; give --model {error.function} to load it"
        ) from error


def find_saved(source: Path) -> Saved:
    """The saved model that RUN names.

    Raises:
        UsageError: there is none. The message says what lies there instead.
    """
    from ..lab import Trial

    if not source.exists():
        raise UsageError(f"RUN {source}: does not exist; give a trial's folder or a .safetensors file")
    if source.is_file():
        return Saved(source, None)
    weights, description = source / "model.safetensors", source / "trial.json"
    if not weights.is_file():
        inside = "it is a lab: name one of its trials" if (source / "lab.sqlite").exists() else "is the trial finished?"
        raise UsageError(f"RUN {source}: no model.safetensors in this folder; {inside}")
    trial = Trial.from_json(description.read_text(encoding="utf-8")) if description.is_file() else None
    return Saved(weights, trial)


def data_of(saved: Saved, root: Path | None) -> Data | None:
    """The data a run was trained on, None without a trial."""
    from ..lab.run import trial_data

    if saved.trial is None:
        return None
    # Unreadable files were refused or left out when the run began. The fingerprint shows that the rest is unchanged.
    folder = saved.weights.parent
    return trial_data(saved.trial, root=root, skip_unreadable=True, download=False, cache=folder)
