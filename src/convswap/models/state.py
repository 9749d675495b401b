"""Reading weight files safely: safetensors, or a state dict that torch reads with `weights_only=True`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import StoreError, UsageError, first_line

_WRAPPERS = ("state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")  # left by DataParallel / DDP, and by torch.compile


def unwrap_state_dict(state: Any) -> dict[str, Tensor]:
    """The plain names and tensors inside a training checkpoint: `{"state_dict": ...}`, `{"model": ...}`, `module.`.

    >>> unwrap_state_dict({"state_dict": {"module.weight": torch.ones(1)}, "epoch": 3})
    {'weight': tensor([1.])}
    """
    for key in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not state:
        raise StoreError(f"holds no state dict (found {type(state).__name__})")
    strangers = [
        str(name) for name, value in state.items() if not (isinstance(name, str) and isinstance(value, Tensor))
    ]
    if strangers:
        verb = "is not a tensor" if len(strangers) == 1 else "are not tensors"
        raise StoreError(
            f"not a state dict: {', '.join(strangers[:4])} {verb}; "
            f"save model.state_dict(), or a dict holding it under {' or '.join(map(repr, _WRAPPERS))}"
        )
    names = dict(state)
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in names):
            names = {name.removeprefix(prefix): value for name, value in names.items()}
    return names


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weight file by plain name, on the CPU. No pickle is executed.

    Raises:
        UsageError: there is no such file.
        StoreError: the file is damaged, holds anything but tensors, or holds a model that convswap has already changed.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UsageError(f"weights={str(path)!r}: {'is a folder, not a file' if path.is_dir() else 'no such file'}")
    read = _read_safetensors if _looks_like_safetensors(path) else _read_torch
    try:
        return unwrap_state_dict(read(path))
    except StoreError as error:
        raise StoreError(f"weights file {str(path)!r}: {error}") from error


def _looks_like_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(9)
    # 8 bytes of header length, then JSON; a torch file begins with a zip or pickle mark.
    return path.suffix == ".safetensors" or (len(head) == 9 and head[8:] == b"{" and head[:2] != b"PK")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            aliases = _plain_aliases(file.metadata() or {})
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        return state | {name: state[kept] for name, kept in aliases.items()}
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise StoreError(f"damaged, or not a safetensors file ({first_line(error)})") from error


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the unpickler raise almost any type; every case is reported
        foreign = _foreign_objects(path)
        if foreign:
            raise StoreError(
                f"holds Python objects besides tensors ({', '.join(foreign[:3])}), and reading those could run code; "
                "save model.state_dict() alone, as safetensors or with torch.save"
            ) from error
        raise StoreError(f"damaged, or not a file of weights ({first_line(error)})") from error


def _foreign_objects(path: Path) -> list[str]:
    """Classes and functions in a file of torch.save that are not safe to read. Empty if the file cannot be read."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except Exception:  # whatever the damage is, the caller has its own error to report
        return []


def _plain_aliases(metadata: Mapping[str, str]) -> dict[str, str]:
    """The other names of shared tensors in a file of `convswap.save`.

    Swapped and fused models are refused: their weights may fit the names of a plain model but mean another function.
    """
    if "convswap" not in metadata:
        return {}
    try:
        header = json.loads(metadata["convswap"])
        history, aliases = header.get("history") or [], dict(header.get("aliases") or {})
        kinds = [(entry["kind"], entry.get("unit")) for entry in history]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(f"its convswap metadata is damaged ({first_line(error)})") from error
    if any(kind == "fuse" for kind, _ in kinds):
        raise StoreError(
            "holds a fused model, which is for inference: its BatchNorms and units are folded away and cannot be "
            "trained from; use the file saved before convswap.fuse"
        )
    units = sorted({str(unit) for kind, unit in kinds if kind == "swap" and unit not in (None, "conv")})
    if units:
        raise StoreError(
            f"holds a model already swapped to {', '.join(units)}, whose weights mean another function in plain "
            "convolutions; open it with convswap.load, go on from it with convswap train --from, or give the weights "
            "from before the swap"
        )
    return aliases
