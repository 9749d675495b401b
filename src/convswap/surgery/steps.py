"""The elementary edits of a fusion. Each is data (a list), so a saved fused model is rebuilt by repeating them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import FusionError
from ..units.contract.geometry import Geometry, plain_conv
from . import algebra
from .chain import fold_threshold, join_chain
from .frozen import norm_affine
from .graph import after_norm
from .pool_first import pool_before
from .sites import all_paths, carry_hooks, is_plain, is_unit, pads_by_hook, replace, why_not_plain

Step = list[Any]
BLOCK_HOOKS = ("fuse", "reparameterize", "switch_to_deploy")


class SummedElsewhere(nn.Module):
    """Takes the place of a parallel branch that was merged into another one, and adds zero to the sum."""

    def forward(self, x: Tensor) -> Tensor:
        """A single zero that broadcasts, whatever the input."""
        return x.new_zeros((1,) * x.dim())


def fuse_unit(model: nn.Module, path: str) -> nn.Module:
    """Replace a unit by its inference form, at every path."""
    unit = model.get_submodule(path)
    fused = cast(nn.Module, cast(Any, unit).fuse())
    carry_hooks(unit, fused)
    return replace(model, all_paths(model, unit), fused)


def call_block_hook(model: nn.Module, path: str, hook: str) -> nn.Module:
    """Let a multi-branch block merge itself by the method it offers, in the model's dtype."""
    block = model.get_submodule(path)
    parameter = next(block.parameters())
    with _default_dtype(parameter.dtype):  # some blocks build their merged convolution in the default dtype
        result = getattr(block, hook)()
    if hook == "fuse" and isinstance(result, nn.Module) and result is not block:
        return replace(model, all_paths(model, block), result.eval())
    block.eval()
    return model


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def find_block_hooks(model: nn.Module) -> list[Step]:
    """Blocks with a method that merges their own branches (timm's RepVGG, MobileOne, RepViT and any block like them).

    A block of one convolution and at most one batch norm needs no method of its own: the graph fold does it.
    """
    found: list[Step] = []

    def walk(module: nn.Module, path: str) -> None:
        hook = None if isinstance(module, nn.Conv2d) or is_unit(module) else _block_hook(module)
        if hook is not None and path:
            found.append(["block", path, hook])
            return
        for name, child in module._modules.items():
            if child is not None:
                walk(child, f"{path}.{name}" if path else name)

    walk(model, "")
    hook = _block_hook(model)
    if not found and hook is not None:
        found.append(["block", "", hook])  # the model as a whole is one block
    return found


def _block_hook(module: nn.Module) -> str | None:
    linear = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.BatchNorm2d | nn.BatchNorm1d)]
    convolutions = [m for m in linear if isinstance(m, nn.Conv2d)]
    if not linear or (len(convolutions) == 1 and len(linear) <= 2):
        return None
    for name in BLOCK_HOOKS:
        method = getattr(module, name, None)
        if callable(method) and not isinstance(method, nn.Module) and _takes_nothing(method):
            return name
    return None


def _takes_nothing(method: Callable[..., Any]) -> bool:
    required = [
        p
        for p in inspect.signature(method).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    return not required


def fold_batch_norm(model: nn.Module, source: str, norm: str) -> nn.Module:
    """Fold a batch norm into the convolution (or absorbing unit) before it and take it out of the model."""
    module, batch_norm = model.get_submodule(source), model.get_submodule(norm)
    scale, shift = norm_affine(batch_norm)
    with torch.no_grad():
        if isinstance(module, nn.Conv2d):
            old_bias = None if module.bias is None else module.bias.double()
            weight, bias = algebra.scale_outputs(module.weight.double(), old_bias, scale, shift)
            module.weight.copy_(weight)
            new_bias = bias.to(module.weight.dtype)
            module.bias = nn.Parameter(new_bias, requires_grad=module.weight.requires_grad)
        else:
            cast(Any, module).fold_affine(scale, shift)
    rest = after_norm(batch_norm) or nn.Identity()
    if rest is not getattr(batch_norm, "act", None):
        carry_hooks(batch_norm, rest)
    return replace(model, all_paths(model, batch_norm), rest.eval())


def merge_parallel(model: nn.Module, paths: list[str], at: str | None = None) -> nn.Module:
    """Merge summed parallel branches of one tensor (convolutions, batch norms) into the largest convolution.

    The merged convolution takes the path `at`, by default the path of the largest one.

    Raises:
        FusionError: the geometries cannot be merged (stride, groups, padding mode, position of the kernel).
    """
    branches = {path: model.get_submodule(path) for path in paths}
    convs = {path: module for path, module in branches.items() if isinstance(module, nn.Conv2d)}
    main = max(convs, key=lambda path: _spread_size(convs[path]))
    target = convs[main]
    reason = _cannot_merge(convs, main)
    if reason is not None:
        raise FusionError(reason)
    size, padding = _spread_size(target), cast(tuple[int, int], target.padding)
    weight, bias = algebra.add_branches([_branch_kernel(m, target, size, padding) for m in branches.values()])
    geometry = Geometry(**{**Geometry.of(target).arguments(), "dilation": (1, 1), "bias": True})
    merged = plain_conv(geometry, weight, bias, like=target.weight)
    place = main if at is None else at
    carry_hooks(branches[place], merged)
    for path, module in branches.items():
        new = merged if path == place else SummedElsewhere().eval()
        model = replace(model, all_paths(model, module), new)
    return model


def _branch_kernel(
    branch: nn.Module, target: nn.Conv2d, size: tuple[int, int], padding: tuple[int, int]
) -> algebra.Kernel:
    """One branch as a kernel of the merged convolution's size, in float64."""
    if isinstance(branch, nn.Conv2d):
        weight = branch.weight.detach().double()
        bias = weight.new_zeros(len(weight)) if branch.bias is None else branch.bias.detach().double()
        where = (cast(tuple[int, int], branch.padding), cast(tuple[int, int], branch.dilation))
        return algebra.embed_kernel(weight, *where, size, padding), bias
    if target.stride != (1, 1) or target.in_channels != target.out_channels:
        raise FusionError("an identity branch needs stride 1 and as many output as input channels")
    identity = algebra.identity_kernel(target.in_channels, target.groups, like=target.weight.detach().double())
    weight, bias = algebra.scale_outputs(identity, None, *norm_affine(branch))
    return algebra.embed_kernel(weight.detach(), (0, 0), (1, 1), size, padding), bias.detach()


def _spread_size(conv: nn.Conv2d) -> tuple[int, int]:
    (kh, kw), (dh, dw) = conv.kernel_size, conv.dilation
    return dh * (kh - 1) + 1, dw * (kw - 1) + 1


def _cannot_merge(convs: dict[str, nn.Conv2d], main: str) -> str | None:
    """Why these parallel convolutions stay apart, or None."""
    target = convs[main]
    if target.dilation != (1, 1):
        return f"{main} is dilated: merging would multiply its cost"
    for path, conv in convs.items():
        if not is_plain(conv) or why_not_plain(conv) is not None:
            return f"{path} is not a plain convolution"
        if pads_by_hook(conv):
            return f"{path} pads its map by itself"
        if conv.stride != target.stride or conv.groups != target.groups:
            return f"{path} and {main} differ in stride or groups"
        if conv.out_channels != target.out_channels:
            return f"{path} and {main} differ in output channels"
        if isinstance(conv.padding, str) or conv.padding_mode != target.padding_mode:
            return f"{path} and {main} differ in how they pad"
        if conv.padding_mode != "zeros" and conv.padding != target.padding:
            return f"{path} and {main} pad by {conv.padding_mode} to different extents"
    return None


def exchanged(step: Step) -> list[str]:
    """The paths of the modules that a step exchanges. Other references to them would not follow the exchange."""
    kind, *arguments = step
    if kind in ("unit", "threshold"):
        return [arguments[0]]
    if kind == "fold":
        return [arguments[1]]
    if kind == "pool_first":
        return list(arguments)
    return list(arguments[0]) if kind in ("merge", "chain") else []


def apply_step(model: nn.Module, step: Step) -> nn.Module:
    """Carry out one edit on a model in eval mode."""
    kind, *arguments = step
    if kind == "unit":
        return fuse_unit(model, *arguments)
    if kind == "block":
        return call_block_hook(model, *arguments)
    if kind == "fold":
        return fold_batch_norm(model, *arguments)
    if kind == "merge":
        return merge_parallel(model, *arguments)
    if kind == "pool_first":
        return pool_before(model, *arguments)
    if kind == "chain":
        return join_chain(model, *arguments)
    if kind == "threshold":
        return fold_threshold(model, *arguments)
    raise FusionError(f"unknown fusion step {kind!r}; known: unit, block, fold, merge, pool_first, threshold, chain")
