"""What stands in the place of a max-pooling: a convolution, or nothing but a stride of the convolution before it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...errors import SurgeryError
from ...ops.memory_format import is_channels_last
from ..sites import all_paths, carry_hooks, replace
from .reading import Pool, pair


@dataclass(frozen=True)
class ReplacedPool:
    """One max-pooling and what would stand in its place.

    Attributes:
        path: its module path.
        geometry: channels, kernel, stride and padding, as text.
        becomes: the same of what replaces it.
        parameters: number of parameters that are added.
        start_error: how far the start is from the pooling's output on the example: the norm of the difference over the
            norm of the output.
        change: the edit as data, for `perform_pooling`.
    """

    path: str
    geometry: str
    becomes: str
    parameters: int
    start_error: float
    change: dict[str, Any]


def why_not_conv(pool: Pool) -> str:
    """Why no convolution has the geometry of a pooling, or nothing."""
    short = any(k < s + p for k, s, p in zip(pool.kernel, pool.stride, pool.padding, strict=True))
    if pool.module.ceil_mode and (short or max(pool.dilation) > 1):
        return "its ceil_mode=True drops windows that start outside the map, which a convolution cannot"
    return ""


def by_conv(model: nn.Module, pool: Pool, norm: bool, start: str) -> ReplacedPool:
    """The row of a plan for a convolution in the place of a pooling."""
    inputs = cast(Tensor, pool.inputs)
    extra = tuple(s - 1 for s in pool.stride) if pool.module.ceil_mode else (0, 0)
    change = {
        "path": pool.path,
        "channels": inputs.shape[1],
        **{name: list(getattr(pool, name)) for name in ("kernel", "stride", "padding", "dilation")},
        "extra": list(extra),  # rows and columns of zeros below and to the right, which round sizes up
        "batch_norm": norm,
        "relu": pool.rectified,
    }
    with torch.random.fork_rng(devices=[]):
        new = _convolution(change, start, _weight_like(model))
    with torch.no_grad():
        error = _error(new.eval()(inputs), pool.module(inputs))
    layers = "conv " + pool.describe().removesuffix(" ceil")
    layers += (" + BN" if norm else "") + (" + ReLU" if pool.rectified else "")
    return ReplacedPool(pool.path, pool.describe(), layers, sum(p.numel() for p in new.parameters()), error, change)


def _convolution(change: Mapping[str, Any], start: str, like: Tensor) -> nn.Sequential:
    """The layers in the place of a pooling."""
    place: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
    channels, kernel = change["channels"], change["kernel"]
    geometry: dict[str, Any] = {name: tuple(change[name]) for name in ("stride", "padding", "dilation")}
    conv = nn.Conv2d(channels, channels, tuple(kernel), bias=not change["batch_norm"], **geometry, **place)
    if start == "warm":
        with torch.no_grad():
            conv.weight.zero_()
            conv.weight[range(channels), range(channels)] = 1 / (kernel[0] * kernel[1])
    else:
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if any(change["extra"]):
        layers["pad"] = nn.ZeroPad2d((0, change["extra"][1], 0, change["extra"][0]))
    layers["conv"] = conv
    if change["batch_norm"]:
        layers["norm"] = nn.BatchNorm2d(channels, **place)
    if change["relu"]:
        layers["relu"] = nn.ReLU()
    new = nn.Sequential(layers)
    return new.to(memory_format=torch.channels_last) if is_channels_last(like) else new


def _weight_like(model: nn.Module) -> Tensor:
    """A weight whose precision, device and memory format new ones take."""
    return min(model.parameters(), key=lambda parameter: parameter.dim() != 4, default=torch.empty(0))


def why_not_strided(model: nn.Module, pool: Pool) -> str:
    """Why the convolution before a pooling cannot take over its stride, or nothing."""
    if pool.conv_reason:
        return pool.conv_reason
    try:
        _strided(cast(nn.Conv2d, model.get_submodule(pool.conv)), pool)
    except SurgeryError as error:
        return str(error)
    inputs = cast(Tensor, pool.inputs)
    wanted = list(pool.module(inputs).shape[2:])
    # n pixels without the stride, the first and the last `middle` left out, are n - 2 middle
    sizes = zip(inputs.shape[2:], _middle(pool), pool.stride, strict=True)
    gives = [(n - 1 - 2 * middle) // step + 1 for n, middle, step in sizes]
    if gives != wanted:
        return f"{pool.conv} with its stride gives {gives[0]}x{gives[1]} pixels, not {wanted[0]}x{wanted[1]}"
    return ""


def _numbers(conv: nn.Conv2d) -> tuple[int, int]:
    """A convolution's padding as numbers."""
    if isinstance(conv.padding, str):
        if conv.padding == "valid":
            return 0, 0
        reach = [d * (k - 1) for d, k in zip(pair(conv.dilation), pair(conv.kernel_size), strict=True)]
        if any(r % 2 for r in reach):
            raise SurgeryError("its convolution pads by 'same' with an even kernel, which no stride has")
        return reach[0] // 2, reach[1] // 2
    return pair(conv.padding)


def _strided(conv: nn.Conv2d, pool: Pool) -> tuple[tuple[int, int], tuple[int, int]]:
    """Stride and padding of a convolution that takes over a pooling and looks at the middle of each window."""
    stride, padding = [], []
    for own, step, pad, middle in zip(pair(conv.stride), pool.stride, _numbers(conv), _middle(pool), strict=True):
        stride.append(own * step)
        padding.append(pad - own * middle)
    if min(padding) < 0:
        raise SurgeryError(
            f"{pool.conv} would need padding {min(padding)} to look at the middle of the windows; replace it by 'conv'"
        )
    return (stride[0], stride[1]), (padding[0], padding[1])


def _middle(pool: Pool) -> list[int]:
    """The middle pixel of the first window, in rows and columns; of an even window the first of its two."""
    windows = zip(pool.kernel, pool.padding, pool.dilation, strict=True)
    return [max(d * (k - 1) // 2 - p, 0) for k, p, d in windows]


def by_stride(model: nn.Module, pool: Pool) -> ReplacedPool:
    """The row of a plan for a convolution that takes over the stride of a pooling."""
    conv = cast(nn.Conv2d, model.get_submodule(pool.conv))
    stride, padding = _strided(conv, pool)
    inputs = cast(Tensor, pool.inputs)
    wanted = pool.module(inputs)
    rows, columns = (slice(start, None, step) for start, step in zip(_middle(pool), pool.stride, strict=True))
    taken = inputs[:, :, rows, columns][:, :, : wanted.shape[2], : wanted.shape[3]]
    change = {"path": pool.path, "conv": pool.conv, "stride": list(stride), "padding": list(padding)}
    text = f"{pool.conv} with stride {stride[0]}" + (f"x{stride[1]}" if stride[0] != stride[1] else "")
    return ReplacedPool(pool.path, pool.describe(), text, 0, _error(taken, wanted), change)


def _error(found: Tensor, wanted: Tensor) -> float:
    norm = wanted.double().norm()
    return float((found.double() - wanted.double()).norm() / norm) if norm else float(found.double().norm())


def perform_pooling(model: nn.Module, record: Mapping[str, Any]) -> nn.Module:
    """Carry out a recorded replacement of pooling in place. Returns the model."""
    for change in record["places"]:
        pool = model.get_submodule(change["path"])
        new: nn.Module = nn.Identity()
        if record["by"] == "conv":
            new = _convolution(change, record["start"], _weight_like(model))
        else:
            conv = cast(nn.Conv2d, model.get_submodule(change["conv"]))
            conv.stride, conv.padding = tuple(change["stride"]), tuple(change["padding"])
        carry_hooks(pool, new)
        replace(model, all_paths(model, pool), new.train(pool.training))
    return model
