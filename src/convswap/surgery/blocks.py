"""Finding the residual blocks and stages of any model by watching one forward pass.

A **residual block** is the smallest module that holds convolutions and whose own forward adds two feature maps of its
output's shape. All modules of that class count, including those that change the shape and therefore add nothing. (A
channel gate that adds two pooled vectors is not a residual block. Neither is an attention whose maps have their
channels last.) A **stage** is a module that holds nothing but residual blocks. Both must take one feature map and
return one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import UsageError
from ..units.contract.block import BlockUnit, Place
from .inputs import Inputs
from .observe import run_watched
from .sites import Site, is_unit

_ADDITIONS = (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor)
_LARGEST_STRIDE = 32


@dataclass(frozen=True)
class BlockSite(Site):
    """A residual block or stage, and what a unit must know to take its place."""

    place: Place = field(default_factory=lambda: Place(1, 1))


@dataclass
class _Watch:
    """What one forward pass shows of a model's modules, by the module's id."""

    calls: dict[int, list[tuple[Any, Any]]] = field(default_factory=dict)  # (input, output) shapes, or None
    adding: set[type] = field(default_factory=set)  # classes that add two maps of their output's shape


class _NoteAdditions(TorchDispatchMode):
    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self.watch = watch
        self.stack: list[tuple[nn.Module, set[Any]]] = []  # modules being called, and the shapes of what each adds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _ADDITIONS and _map_shape(args[0]) is not None and _map_shape(args[0]) == _map_shape(args[1]):
            # an addition in a module without parameters counts as one of the module that calls it
            owners = [sums for m, sums in self.stack if next(m.parameters(), None) is not None]
            if owners:
                owners[-1].add(_map_shape(args[0]))
        return func(*args, **(kwargs or {}))


def find_blocks(model: nn.Module, inputs: Inputs) -> list[BlockSite]:
    """The residual blocks of a model, in definition order, one entry per object.

    Raises:
        SurgeryError: the model does not accept the example input.
        UsageError: the example input is so small that a stride cannot be seen.
    """
    watch = _watch(model, inputs)
    return _block_sites(model, watch)


def find_stages(model: nn.Module, inputs: Inputs) -> list[BlockSite]:
    """The stages of a model: modules that hold nothing but residual blocks, called with one feature map.

    Raises:
        SurgeryError: the model does not accept the example input.
        UsageError: the example input is so small that a stride cannot be seen.
    """
    watch = _watch(model, inputs)
    blocks = {id(site.module) for site in _block_sites(model, watch)}

    def is_stage(module: nn.Module) -> bool:
        children = [child for child in module.children() if next(child.parameters(), None) is not None]
        own = next(module.parameters(recurse=False), None)
        return own is None and bool(children) and all(id(child) in blocks for child in children)

    found = (
        (path, module, sum(id(child) in blocks for child in module.children()))
        for path, module in model.named_modules()
        if path and is_stage(module)
    )
    return list(_sites(model, found, watch))


def _block_sites(model: nn.Module, watch: _Watch) -> list[BlockSite]:
    plain = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    kinds = tuple(kind for kind in watch.adding if kind not in plain and kind is not type(model))

    def is_block(module: nn.Module) -> bool:
        if isinstance(module, BlockUnit):
            return True
        return type(module) in kinds and not is_unit(module) and _convolves(module)

    def walk(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module, int | None]]:
        smaller = not isinstance(module, BlockUnit) and any(
            is_block(inner) for inner in module.modules() if inner is not module
        )
        if path and is_block(module) and not smaller:
            yield path, module, None
            return
        for name, child in module._modules.items():
            if child is not None:
                yield from walk(child, f"{path}.{name}" if path else name)

    return list(_sites(model, walk(model, ""), watch))


def _convolves(module: nn.Module) -> bool:
    return any(isinstance(inner, nn.Conv2d) or is_unit(inner) for inner in module.modules())


def _sites(model: nn.Module, found: Any, watch: _Watch) -> Iterator[BlockSite]:
    """The sites of the modules that map one feature map to another, always with the same stride."""
    paths: dict[int, list[str]] = {}
    modules: dict[int, tuple[nn.Module, int | None]] = {}
    for path, module, depth in found:
        paths.setdefault(id(module), []).append(path)
        modules.setdefault(id(module), (module, depth))
    for key, (module, depth) in modules.items():
        _check_visible(paths[key][0], module, watch.calls.get(key, []))
        place = _place(module, watch.calls.get(key, []), depth)
        if place is not None:
            yield BlockSite(tuple(paths[key]), module, place)


def _place(module: nn.Module, calls: list[tuple[Any, Any]], depth: int | None) -> Place | None:
    parameter = next(module.parameters(), None)
    found = {
        None if entered is None or left is None else (entered[1], left[1], _stride(entered, left))
        for entered, left in calls
    }
    if parameter is None or len(found) != 1:
        return None
    only = found.pop()
    if only is None or only[2] is None:
        return None
    kind: Literal["block", "stage"] = "block" if depth is None else "stage"
    return Place(only[0], only[1], only[2], depth or 1, kind, parameter.device, parameter.dtype, module.training)


def _check_visible(path: str, module: nn.Module, calls: list[tuple[Any, Any]]) -> None:
    """Raise where a strided module sees one pixel: it would look like a module of stride 1."""
    one_pixel = any(entered is not None and max(entered[2:]) == 1 for entered, _ in calls)
    if one_pixel and any(isinstance(m, nn.Conv2d) and max(m.stride) > 1 for m in module.modules()):
        raise UsageError(
            f"the example input is too small: {path} holds a strided convolution but sees a map of one pixel, so its "
            "stride cannot be measured; give a larger example_input"
        )


def _stride(entered: tuple[int, ...], left: tuple[int, ...]) -> int | None:
    """The smallest s for which ceil(H / s) and ceil(W / s) are the sizes seen, or None."""
    strides = range(1, _LARGEST_STRIDE + 1)
    return next((s for s in strides if all(-(-a // s) == b for a, b in zip(entered[2:], left[2:], strict=True))), None)


def _watch(model: nn.Module, inputs: Inputs) -> _Watch:
    watch = _Watch()
    mode = _NoteAdditions(watch)
    handles = []

    def enter(module: nn.Module, args: Any) -> None:
        mode.stack.append((module, set()))

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        _, sums = mode.stack.pop()
        if _map_shape(output) in sums:
            watch.adding.add(type(module))
        single = len(args) == 1 and not kwargs
        shapes = (_map_shape(args[0]) if single else None, _map_shape(output))
        watch.calls.setdefault(id(module), []).append(shapes)

    for module in model.modules():
        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(leave, with_kwargs=True, always_call=True))
    run_watched(model, inputs, mode, handles)
    return watch


def _map_shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) and value.dim() == 4 else None
