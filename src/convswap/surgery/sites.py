"""Where a model holds convolutions, and how one module is exchanged for another at all its paths at once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from ..errors import SurgeryError
from ..units.contract.block import BlockUnit
from ..units.contract.feature import FeatureUnit
from ..units.contract.registry import spec_of
from ..units.contract.weight import WeightUnit
from .padding import InputPadding, read_padding

_WRAPPERS = {
    "DistributedDataParallel": "swap first, then wrap in DistributedDataParallel",
    "DataParallel": "swap first, then wrap in DataParallel",
    "FullyShardedDataParallel": "swap first, then wrap in FSDP",
    "OptimizedModule": "swap first, then call torch.compile",
    "_FabricModule": "swap first, then call fabric.setup: otherwise the new weights silently never train",
    "ScriptModule": "swap or fuse the eager model, then script or trace it",
}

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


@dataclass(frozen=True)
class Site:
    """One module object and every path under which the model holds it."""

    paths: tuple[str, ...]
    module: nn.Module

    @property
    def path(self) -> str:
        """The first path, the name used in reports."""
        return self.paths[0]


def is_unit(module: nn.Module) -> bool:
    """Is this module a unit (ours or a third party's)?"""
    return isinstance(module, (WeightUnit, FeatureUnit, BlockUnit)) or spec_of(module) is not None


def is_block_unit(module: nn.Module) -> bool:
    """Is this module a unit that stands for more than one convolution?"""
    spec = spec_of(module)
    return isinstance(module, BlockUnit) or (spec is not None and spec.kind == "block")


def refuse_wrappers(model: nn.Module) -> None:
    """Raise if a wrapper already holds the parameters: edits inside would train nothing."""
    for path, module in model.named_modules():
        kind = "ScriptModule" if isinstance(module, torch.jit.ScriptModule) else type(module).__name__
        hint = _WRAPPERS.get(kind)
        if hint is not None:
            place = f"{path} is" if path else "the model is"
            raise SurgeryError(f"{place} wrapped in {type(module).__name__}; {hint}")


def refuse_lazy(model: nn.Module) -> None:
    """Raise if a module has no weights yet: a first forward pass would create them in the given model."""
    for path, module in model.named_modules():
        own = [*module._parameters.values(), *module._buffers.values()]
        if any(is_lazy(tensor) for tensor in own):
            raise SurgeryError(
                f"{path or 'the model'} is a {type(module).__name__} without weights yet; run the model once on a real "
                "input first"
            )


def _walk(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    yield path, module
    if isinstance(module, nn.Conv2d) or is_unit(module):
        return  # a unit's inner convolutions are its own business
    for name, child in module._modules.items():
        if child is not None:
            yield from _walk(child, f"{path}.{name}" if path else name)


def sites(model: nn.Module) -> list[Site]:
    """All convolutions and units in definition order, one entry per object. Modules inside a unit are not listed."""
    paths: dict[int, list[str]] = {}
    modules: dict[int, nn.Module] = {}
    for path, module in _walk(model, ""):
        if isinstance(module, nn.Conv2d) or is_unit(module):
            modules.setdefault(id(module), module)
            paths.setdefault(id(module), []).append(path)
    return [Site(tuple(paths[key]), module) for key, module in modules.items()]


def other_convolutions(model: nn.Module) -> dict[str, int]:
    """How many convolutions no unit stands for, by torch's name of their kind: one-dimensional, transposed, ..."""
    modules = {id(m): m for _, m in _walk(model, "") if isinstance(m, _ConvNd) and not isinstance(m, nn.Conv2d)}
    kinds = [
        next(cls.__name__ for cls in type(m).__mro__ if cls.__module__ == _ConvNd.__module__)
        for m in modules.values()
        if not is_unit(m)
    ]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def all_paths(model: nn.Module, module: nn.Module) -> tuple[str, ...]:
    """Every path under which the model holds this very object."""
    return tuple(path for path, other in model.named_modules(remove_duplicate=False) if other is module)


def replace(model: nn.Module, paths: tuple[str, ...], new: nn.Module) -> nn.Module:
    """Put `new` at every path and return the model. An empty path means the model itself: then `new` is returned."""
    for path in paths:
        if path == "":
            return new
        parent, _, name = path.rpartition(".")
        # _modules, not setattr: works for Sequential, ModuleList and ModuleDict, and keeps the order
        model.get_submodule(parent)._modules[name] = new
    return model


def carry_hooks(old: nn.Module, new: nn.Module) -> None:
    """Let `new` share `old`'s hook tables, so that hooks still work and their handles can still remove them."""
    for name in _HOOKS:
        setattr(new, name, getattr(old, name))
    new._is_full_backward_hook = old._is_full_backward_hook


def padding_before(module: nn.Module) -> InputPadding | None:
    """How a convolution with a padding of its own (see `padding`) pads its map, or None."""
    if is_plain(module) or is_unit(module):
        return None
    found = read_padding(module)
    return None if found is None else found.padding


def carry_padding(old: nn.Module, new: nn.Module) -> None:
    """Let `new` pad its map as `old` does by itself, after any hook of the user's."""
    padding = padding_before(old)
    if padding is not None:
        for name in ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"):
            setattr(new, name, OrderedDict(getattr(new, name)))  # the old module must not pad twice
        new.register_forward_pre_hook(padding, with_kwargs=True)


def pads_by_hook(module: nn.Module) -> bool:
    """Does a hook of ours pad this module's map?"""
    return any(isinstance(hook, InputPadding) for hook in module._forward_pre_hooks.values())


def held_elsewhere(model: nn.Module) -> dict[int, str]:
    """Modules that also stand in a plain list, tuple, dict or attribute, where a swap would not reach them, by id."""
    found: dict[int, str] = {}
    for path, owner in model.named_modules():
        for name, value in owner.__dict__.items():
            if name not in ("_modules", "_parameters", "_buffers"):
                for each in _modules_in(value):
                    found[id(each)] = f"{path}.{name}" if path else name
    return found


def _modules_in(value: object, depth: int = 3) -> Iterator[nn.Module]:
    """The modules of an attribute: the attribute itself, or the modules in plain containers."""
    if isinstance(value, nn.Module):
        yield value
    elif depth and isinstance(value, dict | list | tuple | set):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _modules_in(each, depth - 1)


def outside_the_tree(where: str) -> str:
    """The reason to leave a module alone that `held_elsewhere` found at this place."""
    return f"it also stands in {where}, outside of the module tree; use nn.ModuleList or nn.ModuleDict"


# What a subclass may define without changing its function: a forward pass reads none of these names.
_HARMLESS = {"__init__", "reset_parameters", "extra_repr", "__repr__", "__doc__", "__module__", "__qualname__"}
_HARMLESS |= {"__annotations__", "__annotate__", "__annotate_func__", "__firstlineno__", "__static_attributes__"}


def is_plain(module: nn.Module) -> bool:
    """Is this an `nn.Conv2d`, or a subclass that changes only how it is built, initialised or printed?"""
    if type(module) is nn.Conv2d:
        return True
    own = [cls for cls in type(module).__mro__ if cls not in nn.Conv2d.__mro__]
    return (
        isinstance(module, nn.Conv2d)
        and not is_unit(module)
        and all(set(vars(cls)) <= _HARMLESS for cls in own)
        and set(module._parameters) == {"weight", "bias"}
        and not module._buffers
        and not module._modules
    )


def why_not_plain(conv: nn.Module) -> str | None:
    """Why this convolution cannot be read as `conv2d(x, weight, bias)`, or None."""
    if "forward" in conv.__dict__:
        return "its forward was replaced on the object"
    if any(is_lazy(parameter) for parameter in conv.parameters(recurse=False)):
        return "it has no weights yet; run the model once on a real input first"
    weight = getattr(conv, "weight", None)
    if isinstance(weight, Tensor) and weight.is_complex():
        return f"its weight is complex ({weight.dtype})"
    if parametrize.is_parametrized(conv):
        return "its weight is parametrized; call torch.nn.utils.parametrize.remove_parametrizations first"
    for hook in conv._forward_pre_hooks.values():
        kind = type(hook).__name__
        if kind in ("WeightNorm", "SpectralNorm") or hasattr(hook, "apply_mask"):
            return f"its weight is recomputed by a {kind} hook; remove it first"
    if not is_plain(conv) and not is_unit(conv) and read_padding(conv) is None:
        return (
            f"it is a {type(conv).__module__}.{type(conv).__name__}, a subclass of nn.Conv2d that may behave otherwise"
        )
    return None
