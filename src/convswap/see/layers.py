"""The layers of a model that can be looked at, and what they hold while images pass through."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError, unknown_name
from ..surgery.modes import evaluating
from ..surgery.sites import is_block_unit, is_unit
from ..units.contract.geometry import Geometry


@dataclass(frozen=True)
class Layer:
    """One convolution or unit of a model.

    Attributes:
        name: its path in the model.
        module: the module itself.
    """

    name: str
    module: nn.Module

    @property
    def geometry(self) -> Geometry:
        """Channels, kernel size, stride, padding, dilation and groups."""
        m: Any = self.module
        padding = m.padding if isinstance(getattr(m, "padding", 0), str) else _pair(getattr(m, "padding", 0))
        return Geometry(
            m.in_channels,
            m.out_channels,
            _pair(m.kernel_size),
            _pair(m.stride),
            padding,
            _pair(getattr(m, "dilation", 1)),
            m.groups,
            getattr(m, "bias", None) is not None,
            getattr(m, "padding_mode", "zeros"),
        )

    @property
    def depthwise(self) -> bool:
        """Does each group read one channel?"""
        g = self.geometry
        return g.groups == g.in_channels > 1

    @property
    def strided(self) -> bool:
        """Does it make its map smaller?"""
        return max(self.geometry.stride) > 1


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def find_layers(model: nn.Module) -> list[Layer]:
    """All convolutions and units in definition order, each object once.

    Block units are looked into; a unit that stands for one convolution is one layer, and so is its fused form.
    """
    found: dict[int, Layer] = {}
    for name, module in _walk(model, ""):
        found.setdefault(id(module), Layer(name, module))
    return list(found.values())


def _walk(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(module, nn.Conv2d) or (is_unit(module) and not is_block_unit(module)) or _is_fused_form(module):
        yield name, module
        return
    for key, child in module.named_children():
        yield from _walk(child, f"{name}.{key}" if name else key)


_GEOMETRY = ("in_channels", "out_channels", "kernel_size", "stride", "dilation", "groups")


def _is_fused_form(module: nn.Module) -> bool:
    """Does it say that it stands for a convolution of images? So the fused forms of units do, which are no units."""
    if isinstance(module, nn.modules.conv._ConvNd) or not all(hasattr(module, name) for name in _GEOMETRY):
        return False
    given = inspect.signature(module.forward).parameters.values()
    needed = [p for p in given if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    return len(needed) == 1 and len(_pair(module.kernel_size)) == 2


def get_layer(model: nn.Module, name: str) -> nn.Module:
    """The module of a path.

    Raises:
        ValueError: there is none; the nearest are named.
    """
    modules = dict(model.named_modules())
    if name not in modules:
        raise unknown_name("layer", name, [known for known in modules if known])
    return modules[name]


class _Reached(Exception):
    """The layer that was asked for has been run; the rest of the model need not be."""


def output_of(model: nn.Module, images: Tensor, layer: str) -> Tensor:
    """A layer's output on these images with its graph, the rest of the model not run.

    The model runs in the mode it is in. What later layers would change in place is not changed here.

    Raises:
        ValueError: no such layer; it is not run by the model; its output is no tensor.
    """
    seen: list[Any] = []

    def stop(module: nn.Module, args: Any, output: Any) -> None:
        seen.append(output)
        raise _Reached

    handle = get_layer(model, layer).register_forward_hook(stop)
    try:
        model(images)
    except _Reached:
        pass
    finally:
        handle.remove()
    if not seen:
        raise UsageError(f"layer={layer!r} is not run by {type(model).__name__}")
    if not isinstance(seen[0], Tensor):
        raise UsageError(f"layer={layer!r} gives a {type(seen[0]).__name__}, not a tensor")
    return seen[0]


@contextmanager
def watching(model: nn.Module, names: Sequence[str], seen: dict[str, Tensor]) -> Iterator[None]:
    """Note the outputs of layers in `seen`, detached and safe from later in-place changes, while the block runs."""

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                seen[name] = output.detach().clone()

        return hook

    handles = [get_layer(model, name).register_forward_hook(note(name)) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def feature_maps(model: nn.Module, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    """The outputs of layers on images, in eval mode without gradients, in the order in which they are run.

    Of a layer that runs several times the last output is kept; one that does not run, or gives no tensor, is missing.

    Raises:
        ValueError: a name that is no layer.
    """
    seen: dict[str, Tensor] = {}
    with evaluating(model), torch.no_grad(), watching(model, layers, seen):
        model(images.clone())
    return seen


@dataclass(frozen=True)
class Passed:
    """What one pass showed of a layer: a sample of its input, and the shape of its output."""

    input: Tensor
    output: tuple[int, ...]


def pass_through(model: nn.Module, images: Tensor) -> dict[str, Passed]:
    """Run images through a model in eval mode; for each convolution and unit the first call, in the order of calls."""
    seen: dict[str, Passed] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if name not in seen and args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
                seen[name] = Passed(args[0].detach().clone(), tuple(output.shape))

        return hook

    handles = [layer.module.register_forward_hook(note(layer.name)) for layer in find_layers(model)]
    try:
        with evaluating(model), torch.no_grad():
            model(images.clone())
    finally:
        for handle in handles:
            handle.remove()
    return seen


def last_map(model: nn.Module, images: Tensor) -> str:
    """The module that gives the last feature map (N, C, H, W) of more than one pixel.

    Of nested modules that give the very same tensor the innermost; a block that still does something to its last
    layer's output, such as a functional rectifier, is itself the one.

    Raises:
        ValueError: the model makes no feature maps.
    """
    name, last, version = "", None, 0

    def note(here: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            nonlocal name, last, version
            if isinstance(output, Tensor) and output.dim() == 4 and min(output.shape[2:]) > 1:
                # Hooks of inner modules run first. What works in place returns the same tensor, changed.
                if output is not last or output._version != version:
                    name = here
                last, version = output, output._version

        return hook

    handles = [module.register_forward_hook(note(path)) for path, module in model.named_modules() if path]
    try:
        with evaluating(model), torch.no_grad():
            model(images[:1].clone())
    finally:
        for handle in handles:
            handle.remove()
    if not name:
        raise UsageError(f"{type(model).__name__} makes no feature map of more than one pixel; name a layer")
    return name
