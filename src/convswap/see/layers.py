"""The layers of a model that can be looked at, and their outputs while images pass through."""

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
        """Does the layer make its map smaller?"""
        return max(self.geometry.stride) > 1


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def find_layers(model: nn.Module) -> list[Layer]:
    """All convolutions and units in definition order. Each object comes once.

    Block units are searched for layers. A unit that stands for one convolution is one layer, and so is its fused form.
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
    """Does the module expose a convolution's geometry? The fused forms of units do, although they are not units."""
    if isinstance(module, nn.modules.conv._ConvNd) or not all(hasattr(module, name) for name in _GEOMETRY):
        return False
    given = inspect.signature(module.forward).parameters.values()
    needed = [p for p in given if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    return len(needed) == 1 and len(_pair(module.kernel_size)) == 2


def get_layer(model: nn.Module, name: str) -> nn.Module:
    """The module at a path.

    Raises:
        ValueError: there is none. The message names the nearest paths.
    """
    modules = dict(model.named_modules())
    if name not in modules:
        raise unknown_name("layer", name, [known for known in modules if known])
    return modules[name]


class _Reached(Exception):
    """The layer that was asked for has run, so the rest of the model need not run."""


def output_of(model: nn.Module, images: Tensor, layer: str) -> Tensor:
    """A layer's output on these images with its graph. The rest of the model is not run.

    The model runs in its present mode. Later layers that work in place do not change this output.

    Raises:
        ValueError: no such layer; the model does not run it; its output is not a tensor.
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

    Only the last output is kept of a layer that runs several times. A layer that does not run, or does not give a
    tensor, is missing.

    Raises:
        ValueError: a name that is not a layer.
    """
    seen: dict[str, Tensor] = {}
    with evaluating(model), torch.no_grad(), watching(model, layers, seen):
        model(images.clone())
    return seen


@dataclass(frozen=True)
class Passed:
    """A layer in one pass: a sample of its input, and the shape of its output."""

    input: Tensor
    output: tuple[int, ...]


def pass_through(model: nn.Module, images: Tensor) -> dict[str, Passed]:
    """Run images through a model in eval mode: the first call of each convolution and unit, in the order of calls."""
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

    Of nested modules that return the very same tensor, it is the innermost. A block that still changes its last layer's
    output, for example with a functional rectifier, is itself the one.

    Raises:
        ValueError: the model makes no feature maps.
    """
    name, last, version = "", None, 0

    def note(here: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            nonlocal name, last, version
            if isinstance(output, Tensor) and output.dim() == 4 and min(output.shape[2:]) > 1:
                # Hooks of inner modules run first. A module that works in place returns the same tensor, changed.
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
