"""The tensors inside any value: lists, dictionaries, dataclasses, own classes, nested as deep as they come."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

_OPAQUE = (nn.Module, type, ModuleType, FunctionType, MethodType, BuiltinFunctionType, str, bytes, int, float, complex)


def tensors_in(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in a value and its path, such as `['logits']` or `[0].boxes`, in the value's own order.

    Dictionaries of any kind, lists, tuples and the attributes of objects are entered. Modules and functions are not.

    >>> [path for path, _ in tensors_in({"a": [Tensor(1), 3], "b": (Tensor(2),)})]
    ["['a'][0]", "['b'][0]"]
    """
    yield from _walk(value, path, ())


def _walk(value: Any, path: str, around: tuple[int, ...]) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif id(value) not in around:  # else the value holds itself
        for name, each in _children(value):
            yield from _walk(each, path + name, (*around, id(value)))


def tensors_of(value: Any) -> list[Tensor]:
    """Every tensor in a value that holds at least one element."""
    return [tensor for _, tensor in tensors_in(value) if tensor.numel()]


def map_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """The value with every tensor exchanged. What holds a tensor is copied, and everything else is shared."""
    if isinstance(value, Tensor):
        return change(value)
    old = [each for _, each in _children(value)]
    new = [map_tensors(each, change) for each in old]
    if all(a is b for a, b in zip(old, new, strict=True)):
        return value
    if isinstance(value, tuple):
        return type(value)(*new) if hasattr(value, "_fields") else type(value)(new)
    twin = copy.copy(value)
    if isinstance(value, Mapping):
        twin = dict(value) if twin is value else twin
        for key, each in zip(value, new, strict=True):
            twin[key] = each
    elif isinstance(value, list):
        twin[:] = new
    else:
        for name, each in zip(_attributes(value), new, strict=True):
            object.__setattr__(twin, name, each)
    return twin


def _children(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [(f"[{key!r}]", each) for key, each in value.items()]
    if isinstance(value, list | tuple):
        return [(f"[{index}]", each) for index, each in enumerate(value)]
    return [(f".{name}", each) for name, each in _attributes(value).items()]


def _attributes(value: Any) -> dict[str, Any]:
    """The attributes that an object holds, in a dictionary of its own or in slots."""
    if value is None or isinstance(value, _OPAQUE):
        return {}
    found = dict(getattr(value, "__dict__", {}))
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            own = f"_{cls.__name__.lstrip('_')}{name}" if name.startswith("__") and not name.endswith("__") else name
            if own not in ("__dict__", "__weakref__") and hasattr(value, own):
                found.setdefault(own, getattr(value, own))
    return found
