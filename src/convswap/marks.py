"""Marks: what a state dict says about itself, beside its tensors.

A unit's parameters often have the names and shapes of a plain convolution's, and mean another function. So each unit
writes one more entry, `<path>._extra_state`, which is torch's own mechanism. Its value is a uint8 tensor of JSON text,
`{"options": {...}, "unit": "circle"}`: safetensors, distributed checkpoints and moving averages accept nothing but
tensors. It is no buffer, because averaging code overwrites the buffers of a model, and rounds them.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

KEY = "_extra_state"
"""The last part of a mark's name in a state dict; torch gives it."""

_OF_ITS_OWN = ("_registered", "forward", "effective_weight", "setup")


class Marked:
    """Mixin, before `nn.Module`: the module writes its mark and refuses the state of another one.

    Under `strict=True` `load_state_dict` raises torch's RuntimeError, which gives the reason. Under `strict=False`
    nothing is loaded into this module: its keys are among `missing_keys`, and a warning gives the reason.

    Attributes:
        marked_settings: the attributes that change the function and show in no tensor's shape.
    """

    marked_settings: ClassVar[tuple[str, ...]] = ()

    def marked_options(self) -> dict[str, Any]:
        """The settings by name, as far as JSON can hold them."""
        return {name: getattr(self, name) for name in self.marked_settings}

    def mark(self) -> dict[str, Any]:
        """`{"unit": name, "options": {...}}`, with what JSON makes of the options."""
        text = json.dumps({"unit": name_of(type(self)), "options": self.marked_options()}, sort_keys=True, default=repr)
        return cast(dict[str, Any], json.loads(text))

    def get_extra_state(self) -> Tensor:
        """The mark as a uint8 tensor, on the module's device."""
        module = cast(nn.Module, self)
        first = next((t for t in (*module.parameters(), *module.buffers())), None)
        # The device is named because of `with torch.device(...)`, which would move the tensor.
        return as_tensor(self.mark(), torch.device("cpu") if first is None else first.device)

    def set_extra_state(self, state: Any) -> None:
        """Nothing to set: `_load_from_state_dict` has compared the marks already."""

    def settle(self, given: Mapping[str, Any], state: dict[str, Any], prefix: str, *, assign: bool) -> str | None:
        """Why this module refuses the state, or None. May rewrite the entries of `state` under `prefix`.

        Args:
            given: the entries under the prefix, by their names within this module.
            state: the dictionary that this module and its children are about to read.
            prefix: the module's path and a dot.
            assign: does `load_state_dict` exchange the tensors instead of copying into them?
        """
        return None if KEY not in given else difference(given[KEY], self.mark())

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        module = cast(nn.Module, self)
        given = {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}
        assign = bool(local_metadata.get("assign_to_params_buffers", False))
        reason = self.settle(given, state_dict, prefix, assign=assign) if given else None
        if reason is not None:
            for name in given:
                del state_dict[prefix + name]
            # The children are loaded after their parent: with what they hold already.
            kept = module.state_dict(prefix=prefix, keep_vars=True)
            state_dict.update(kept)
            _refuse([name for name in kept if not name.endswith(KEY)], reason, missing_keys)
            return
        super()._load_from_state_dict(  # type: ignore[misc]
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if prefix + KEY in missing_keys:
            missing_keys.remove(prefix + KEY)


class _Explained(str):
    """A key that is printed with a reason. torch prints keys in its error, and callers compare them."""

    reason: str

    def __format__(self, spec: str) -> str:
        return f"{super().__format__(spec)} ({self.reason})"


def _refuse(names: list[str], reason: str, missing: list[str]) -> None:
    """Report the keys of a module as missing, each reason once. (torch does not tell a module whether it is strict.)"""
    first, *rest = names
    if not any(isinstance(key, _Explained) and key.reason == reason for key in missing):
        warnings.warn(f"{first}: {reason}", stacklevel=2)
        explained = _Explained(first)
        explained.reason = reason
        first = explained
    missing += [first, *rest]


def author_of(cls: type) -> type:
    """The class that says what a module computes: registered as a unit, or with a forward pass of its own.

    FSDP and parametrisations derive a class of their own from that of a module, which computes the same.
    """
    return next((base for base in cls.__mro__ if any(name in vars(base) for name in _OF_ITS_OWN)), cls)


def name_of(cls: type) -> str:
    """The registered name of a unit's class, else the class's own."""
    author = author_of(cls)
    row = vars(author).get("_registered")
    return author.__qualname__ if row is None else str(row.name)


def writes_mark(module: nn.Module) -> bool:
    """Does the module write a mark? The plain convolution as a unit does not: its state is what it looks like."""
    return isinstance(module, Marked) and type(module).get_extra_state is not nn.Module.get_extra_state


def as_tensor(mark: Mapping[str, Any], device: torch.device) -> Tensor:
    """A mark as it stands in a state dict."""
    return torch.tensor(list(json.dumps(mark, sort_keys=True).encode()), dtype=torch.uint8, device=device)


def read(value: Any) -> dict[str, Any] | None:
    """The mark that a tensor holds. None if it is none of ours, or damaged.

    Casts of a whole state dict, and averages of equal marks, may have made floating-point numbers of the bytes.
    """
    if not isinstance(value, Tensor) or value.dim() != 1 or value.is_meta:
        return None
    numbers = value.detach().cpu()
    whole = numbers.double().round().long() if numbers.is_floating_point() else numbers
    try:
        found = json.loads(bytes(whole.tolist()))
    except ValueError:
        return None
    return found if isinstance(found, dict) and {"unit", "options"} <= found.keys() else None


def difference(value: Any, mine: Mapping[str, Any]) -> str | None:
    """In what a mark differs from this module's own, as the reason for an error, or None.

    >>> difference(as_tensor({"unit": "ic", "options": {}}, torch.device("cpu")), {"unit": "circle", "options": {}})
    'the state given is of ic, but this is circle; open it with convswap.load, or build the model with ic'
    """
    if isinstance(value, Tensor) and value.is_meta:
        return None  # without values there is nothing to load either
    theirs = read(value)
    if theirs is None:
        return f"the mark that says what the state is of is damaged, and this is {mine['unit']}"
    here, there = mine["unit"], theirs["unit"]
    if here == there:
        names = [n for n in {**mine["options"], **theirs["options"]} if _at(mine, n) != _at(theirs, n)]
        if not names:
            return None
        here, there = (
            f"{mark['unit']}({', '.join(f'{n}={_at(mark, n)!r}' for n in names)})" for mark in (mine, theirs)
        )
    told = f"the state given is of {there}, but this is {here}"
    return f"{told}; open it with convswap.load, or build the model with {there}"


def _at(mark: Mapping[str, Any], name: str) -> Any:
    return mark["options"].get(name, "absent")


def marks_in(state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The marks in a state dict by the path of their module."""
    found = {name.removesuffix(KEY).rstrip("."): read(value) for name, value in state.items() if name.endswith(KEY)}
    return {path: mark for path, mark in found.items() if mark is not None}


def with_marks(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy of a state dict that says that it is of this model's own units, with their options.

    For published weights, which bear no marks, under the names that this model has.
    """
    marks = {
        f"{path}.{KEY}".lstrip("."): cast(Marked, module).get_extra_state()
        for path, module in model.named_modules(remove_duplicate=False)
        if writes_mark(module)
    }
    return {**state, **marks}


def without_marks(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy of a state dict with its tensors alone, for code that knows no marks."""
    return {name: value for name, value in state.items() if not name.endswith(KEY)}
