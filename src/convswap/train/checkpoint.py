"""The state of a training after an epoch: enough to resume as if nothing had happened."""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ..errors import StoreError, TrainingError, first_line
from ..files import write_atomically
from ..units.contract.options import described_options

FORMAT = 2


@dataclass(frozen=True)
class Identity:
    """What a checkpoint must share with the training that resumes from it."""

    recipe: dict[str, Any]
    seed: int
    data: str
    model: list[str]

    def check(self, saved: dict[str, Any], path: Path) -> None:
        """Raise a `TrainingError` naming the first difference."""
        for name in ("recipe", "seed", "data", "model"):
            mine, theirs = getattr(self, name), saved[name]
            if mine != theirs:
                raise TrainingError(
                    f"{path} belongs to another training: {_difference(name, mine, theirs)}; "
                    "use another directory, or delete the file (or pass resume=False) to start again"
                )


def _difference(name: str, mine: Any, theirs: Any) -> str:
    if name == "seed":
        return f"its seed is {theirs}, not {mine}"
    if name == "data":
        return f"its data have the fingerprint {theirs[:12]}, not {mine[:12]}"
    if name == "recipe":
        changed = [key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)]
        return "its recipe has " + ", ".join(f"{key}={theirs.get(key)!r}, not {mine.get(key)!r}" for key in changed)
    for here, there in zip(mine, theirs, strict=False):
        if here != there:
            return f"its model has `{there}` where this one has `{here}`"
    return f"its model has {len(theirs)} modules and tensors, this one {len(mine)}"


def describe_model(model: nn.Module) -> list[str]:
    """One line per option of a unit, per module (path, class, settings) and per saved tensor (name, dtype, shape)."""
    lines = []
    for path, module in model.named_modules():
        own = [*described_options(module), f"{type(module).__qualname__}({module.extra_repr()})"]
        # Addresses in a repr differ from run to run.
        lines += [f"{path or '(model)'}: " + re.sub(r" at 0x[0-9a-fA-F]+", "", text) for text in own]
    for name, value in model.state_dict().items():
        if isinstance(value, torch.Tensor):
            lines.append(f"{name}: {str(value.dtype).removeprefix('torch.')}{list(value.shape)}")
    return lines


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of torch's global generators: the CPU's and the device's."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Set the generators to a saved state. A device that has no saved state keeps its own."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def save_checkpoint(
    path: Path,
    *,
    model: nn.Module,
    companions: nn.Module,
    optimizer: Optimizer,
    history: list[dict[str, Any]],
    identity: Identity,
    device: torch.device,
    further: dict[str, Any],
) -> None:
    """Write the state after `len(history)` epochs, completely or not at all.

    `further` holds what only some recipes have: the average of the weights, the best weights, the scale of the loss.

    Raises:
        StoreError: the state could not be written. The previous checkpoint is intact.
    """
    state = {
        "format": FORMAT,
        "epoch": len(history),
        "model": model.state_dict(),
        "companions": companions.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": history,
        "random": random_state(device),
        "identity": vars(identity),
        "further": further,
    }
    buffer = io.BytesIO()  # torch.save straight to a full disk raises a bare RuntimeError
    torch.save(state, buffer)
    write_atomically(path, buffer.getbuffer())


def load_checkpoint(path: Path, identity: Identity) -> dict[str, Any]:
    """Read a checkpoint for a training of this identity. Nothing in the file is executed.

    Raises:
        StoreError: the file is damaged, unreadable or of another version.
        TrainingError: the checkpoint belongs to another recipe, seed, data set or model.
    """
    state = _read(path)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise StoreError(
            f"{path} is not a checkpoint of this version of convswap (format {found!r}, not {FORMAT}); "
            "delete it to start again"
        )
    identity.check(state["identity"], path)
    return state


def _read(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load does not compare the checksums it wrote
        if damaged is not None:
            raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise StoreError(f"cannot read the checkpoint {path}: {error.strerror or error}") from error
    except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise StoreError(f"the checkpoint {path} is damaged ({first_line(error)}); delete it to start again") from error
