"""Whole models on disk: safetensors files whose metadata says how to build the model and which surgery to repeat.

No pickle is ever read. No function is called merely because a file names it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from .._version import __version__
from ..errors import StoreError, UsageError, first_line
from ..files import write_atomically
from ..surgery.applying import perform_swap
from ..surgery.history import append_history, constructor_of, history_of
from ..surgery.pooling import perform_pooling, perform_probabilistic
from ..surgery.pruning.narrow import perform_prune
from ..surgery.residuals import repeat_removal
from ..surgery.sites import is_unit
from ..surgery.steps import apply_step
from ..units.contract.options import described_options
from .card import ModelCard, card_of, put_card
from .factory import create_model
from .own import call_own_function, is_own

_KEY = "convswap"


def save(
    model: nn.Module,
    path: str | Path,
    *,
    constructor: str | None = None,
    arguments: dict[str, Any] | None = None,
    card: ModelCard | Mapping[str, Any] | None = None,
) -> Path:
    """Write a model, swapped and fused as it is, to one safetensors file.

    Args:
        model: a model from `create_model` (or changed by `swap` / `fuse`, which keep its provenance). For any
            other model, `constructor` and `arguments` say how to build it.
        path: the file. It is written beside and moved into place, so a full disk leaves an older file intact.
        constructor: a model name as `create_model` takes it: `"resnet18"`, `"torchvision:resnet18"`,
            `"package.module:function"`.
        arguments: the keyword arguments of that constructor, `num_classes` among them if it takes that.
        card: what the model was trained on (normalisation, image size, class names, ...), as a `ModelCard` or a
            dictionary of its facts. By default the model's own card, `model.convswap_card`.

    Raises:
        UsageError: the way to build the model is unknown, `arguments` or `card` is not JSON, or building the model and
            repeating its surgery gives another model (something was edited by hand). The message names the first
            difference.
        StoreError: the file cannot be written.
    """
    built = _constructor(model, constructor, arguments)
    _check_provenance(model, built)
    state, aliases = _distinct(model.state_dict())
    header: dict[str, Any] = {
        "version": __version__,
        "constructor": built,
        "history": history_of(model),
        "aliases": aliases,
    }
    if isinstance(card, Mapping):
        card = ModelCard.from_dict(card)
    known = card or card_of(model)
    header["card"] = None if known is None else known.as_dict()
    header["frozen"] = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    try:
        metadata = {_KEY: json.dumps(header)}  # only one key: several would be written in random order
    except TypeError as error:
        raise UsageError(
            f"arguments={arguments!r}, the card or the surgery's options cannot be written as JSON: {error}"
        ) from error
    target = Path(path).expanduser()
    write_atomically(target, serialize(state, metadata=metadata))
    return target


class ConstructorNeededError(UsageError):
    """The file names a user's own function, and `load` was called without `constructor`.

    Attributes:
        path: the file.
        function: the name of the function, `package.module:function`.
    """

    def __init__(self, path: Path, function: str) -> None:
        super().__init__(
            f"{str(path)!r} is built by your function {function!r}; "
            f"pass constructor={function!r} (or the function) to load it"
        )
        self.path, self.function = path, function


def load(
    path: str | Path, *, constructor: str | Callable[..., nn.Module] | None = None, device: str | torch.device = "cpu"
) -> nn.Module:
    """Rebuild a model from a file written by `save`: construct the model, repeat its surgery, load strictly.

    The model is in eval mode. Frozen parameters (`requires_grad=False`) are frozen again. `model.convswap_card` is the
    file's `ModelCard`, or None. Where the host declares its input in `pretrained_cfg`, as timm's models do, the facts
    of the card replace what was declared for other weights.

    Args:
        path: the file.
        constructor: needed if the file names a function of your own (`package.module:function`): that function, or
            its name. A file alone never decides which code runs.
        device: the device for the model.

    Raises:
        UsageError: there is no such file, or the file names a function and `constructor` was not given.
        StoreError: the file is damaged or not written by `save`, or its parts do not fit together.
    """
    path = Path(path).expanduser()
    header, state = _read(path)
    try:
        built, history, aliases = header["constructor"], header["history"], header["aliases"]
        model = _construct(path, built, constructor)
        for record in history:
            model = _repeat(model, record)
            append_history(model, record)
        model.__dict__["_convswap_constructor"] = built
        state |= {name: state[kept] for name, kept in aliases.items()}
        _take_dtypes(model, state)
        model.load_state_dict(state, strict=True)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in header["frozen"])
        put_card(model, _card(path, header["card"]))
    except (KeyError, AttributeError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        written = header.get("version", "an unknown version")
        raise StoreError(
            f"{str(path)!r} cannot be rebuilt ({reason}); it was written by convswap {written}, this is {__version__}"
        ) from error
    return model.to(device=device).eval()


def _card(path: Path, facts: dict[str, Any] | None) -> ModelCard | None:
    try:
        return None if facts is None else ModelCard.from_dict(facts)
    except UsageError as error:
        raise StoreError(f"{str(path)!r} is damaged: {error}") from error


def _take_dtypes(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Give every tensor of the model the precision its saved value has."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name in state and tensor.is_floating_point():
            tensor.data = tensor.data.to(state[name].dtype)
    model._apply(lambda tensor: tensor)  # makes units compute their constants again, in the precision of their weight


def _check_provenance(model: nn.Module, built: dict[str, Any]) -> None:
    """Rebuild the model from the file's future content. Raise if it differs: `load` would be silently wrong."""
    with torch.random.fork_rng(devices=[]):
        twin = create_model(built["model"], **built["arguments"])
        for record in history_of(model):
            twin = _repeat(twin, record)
    mine, theirs = _described(model), _described(twin)
    for path in [*mine, *theirs]:
        if mine.get(path) != theirs.get(path):
            here, there = _first_difference(mine.get(path, ["gone"]), theirs.get(path, ["nothing"]))
            raise UsageError(
                f"{path or 'the model'} is {here}, but {built['model']!r} with its recorded surgery "
                f"has {there} there; make such edits inside a function of your own and save with "
                "constructor='package.module:function', and swap the whole model rather than a part of it"
            )


def _described(model: nn.Module) -> dict[str, list[str]]:
    """Each module's type, printed form and options, by path. Inside units also every setting, printed or not."""
    found: dict[str, list[str]] = {}
    units: set[int] = set()
    for path, module in model.named_modules(remove_duplicate=False):
        if is_unit(module):
            units |= {id(inner) for inner in module.modules()}
        found[path] = [f"{type(module).__name__}({module.extra_repr()})", *described_options(module)]
        if id(module) in units:
            settings = {name: value for name, value in vars(module).items() if _is_setting(name, value)}
            found[path] += [f"{name}={value!r}" for name, value in sorted(settings.items())]
    return found


def _is_setting(name: str, value: object) -> bool:
    """Is this attribute plain data that a constructor set?"""
    if isinstance(value, tuple | list):
        return all(_is_setting(name, each) for each in value)
    return name != "training" and not name.startswith("_") and isinstance(value, bool | int | float | str)


def _first_difference(mine: list[str], theirs: list[str]) -> tuple[str, str]:
    """The first two lines that differ, with the class in front if they are options or settings."""
    here, there = next((a, b) for a, b in zip_longest(mine, theirs, fillvalue="nothing") if a != b)
    named = here == mine[0] or here == "nothing"
    return (here, there) if named else (f"{mine[0]} with {here}", there)


def _constructor(model: nn.Module, name: str | None, arguments: dict[str, Any] | None) -> dict[str, Any]:
    if name is not None:
        given = dict(arguments or {})
        if "num_classes" not in given and not is_own(name):
            raise UsageError(f"arguments={arguments!r} lacks 'num_classes', which create_model({name!r}) needs")
        return {"model": name, "arguments": given}
    known = constructor_of(model)
    if known is None:
        raise UsageError(
            f"how this {type(model).__name__} is built is unknown; build it with convswap.create_model(name, ...), or "
            "call save(..., constructor='resnet18' or 'package.module:function', arguments={'num_classes': ...})"
        )
    return known


def card_in(path: str | Path) -> ModelCard | None:
    """The card in a file of `save`, without building the model."""
    path = Path(path).expanduser()
    return _card(path, _read(path)[0].get("card"))


def _distinct(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors that share no memory, and the other names of shared tensors."""
    first: dict[tuple[Any, ...], str] = {}
    aliases: dict[str, str] = {}
    kept: dict[str, Tensor] = {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and key in first:
            aliases[name] = first[key]
        else:
            first[key] = name
            kept[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
    return kept, aliases


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise UsageError(f"path={str(path)!r}: {'is a folder, not a file' if path.is_dir() else 'no such file'}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        header = json.loads(metadata[_KEY]) if _KEY in metadata else None
    except (SafetensorError, OSError, ValueError) as error:
        raise StoreError(f"{str(path)!r} is damaged or not a safetensors file: {error}") from error
    if not isinstance(header, dict):
        raise StoreError(
            f"{str(path)!r} was not written by convswap.save; for plain weights use create_model(weights=...)"
        )
    return header, state


def built_by(path: str | Path) -> tuple[str, dict[str, Any]]:
    """The name of the constructor that a file of `save` records, and its arguments. Nothing is imported or called.

    Raises:
        UsageError: there is no such file.
        StoreError: the file is damaged or not written by `save`.
    """
    path = Path(path).expanduser()
    header, _ = _read(path)
    try:
        return str(header["constructor"]["model"]), dict(header["constructor"]["arguments"])
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{str(path)!r} is damaged: its header names no constructor ({first_line(error)})") from error


def _construct(path: Path, built: dict[str, Any], constructor: str | Callable[..., nn.Module] | None) -> nn.Module:
    name, arguments = built["model"], built["arguments"]
    if callable(constructor):
        return call_own_function(name, constructor, **arguments)
    if is_own(name) and constructor != name:
        raise ConstructorNeededError(path, name)
    if constructor not in (None, name):
        raise UsageError(f"constructor={constructor!r}: {str(path)!r} is built by {name!r}; leave the constructor out")
    return create_model(name, **arguments)


def _repeat_fuse(model: nn.Module, record: dict[str, Any]) -> nn.Module:
    model = model.double().eval()
    for step in record["steps"]:
        model = apply_step(model, step)
    return model


def _repeat(model: nn.Module, record: dict[str, Any]) -> nn.Module:
    """Repeat one surgery on a freshly built model. Only the structure matters: the values are loaded afterwards."""
    if record["kind"] not in _REPEATS:
        raise StoreError(f"unknown surgery {record['kind']!r}; a newer convswap may know it")
    return _REPEATS[record["kind"]](model, record)


_REPEATS: dict[str, Callable[[nn.Module, dict[str, Any]], nn.Module]] = {
    "swap": lambda model, record: perform_swap(model, record)[0],
    "fuse": _repeat_fuse,
    "prune": perform_prune,
    "remove_residuals": repeat_removal,
    "replace_pooling": perform_pooling,
    "probabilistic_pooling": perform_probabilistic,
}
