"""The operators of a residual block, read from the exported graph as data. Values are known by the tensors' names."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from ..graph import IDENTITIES, Reader

_aten = torch.ops.aten
Pair = tuple[int, int]
CONVOLUTIONS = (_aten.conv2d.default, _aten.conv2d.padding)
_ALIASES = (*IDENTITIES, _aten.dropout.default, _aten.dropout_.default, _aten.feature_dropout.default)
_AVERAGES = (_aten.avg_pool2d.default,)
_MAXIMA = (_aten.max_pool2d.default,)
_PRODUCTS = (_aten.mul.Tensor, _aten.mul_.Tensor)
ADDITIONS = (_aten.add.Tensor, _aten.add_.Tensor)


_LONGEST = 2**31  # pixels: an end beyond it means all


class UnreadableError(Exception):
    """A block is outside of the conditions under which its addition can be removed. The message is the reason."""


@dataclass(frozen=True)
class Convolution:
    """`conv2d` with a parameter of the model."""

    weight: str
    bias: str | None = None
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1


@dataclass(frozen=True)
class BatchNorm:
    """A batch norm in eval mode: a fixed affine map of each channel."""

    mean: str
    variance: str
    weight: str | None
    bias: str | None
    eps: float


@dataclass(frozen=True)
class Scale:
    """A factor: one parameter per channel (a layer scale), or a number."""

    factor: str | float


@dataclass(frozen=True)
class AveragePool:
    """`avg_pool2d` as a depthwise convolution. Where `ceil` is set, that needs map sides that the stride divides."""

    kernel: Pair
    stride: Pair
    padding: Pair
    ceil: bool = False


@dataclass(frozen=True)
class Subsample:
    """Every stride-th pixel."""

    stride: Pair


@dataclass(frozen=True)
class PadChannels:
    """Zero channels before and behind."""

    before: int
    after: int


@dataclass(frozen=True)
class Activation:
    """An elementwise function: the name of its module in `torch.nn`, its arguments, and its bounds if it is a clamp."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    bounds: tuple[float, float] | None = None
    slope: str | None = None  # the parameter of a PReLU


@dataclass(frozen=True)
class Gate:
    """Squeeze and excite: the map times a function of its channel means."""

    layers: tuple[Operator, ...]


Operator = Convolution | BatchNorm | Scale | AveragePool | Subsample | PadChannels | Activation | Gate
LINEAR = (Convolution, BatchNorm, Scale, AveragePool, Subsample, PadChannels)

# By operator: the module, and the names of its arguments with their defaults (they follow the input).
_ELEMENTWISE: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("ReLU", {}),
    "relu6": ("ReLU6", {}),
    "hardtanh": ("Hardtanh", {"min_val": -1.0, "max_val": 1.0}),
    "silu": ("SiLU", {}),
    "hardswish": ("Hardswish", {}),
    "hardsigmoid": ("Hardsigmoid", {}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "mish": ("Mish", {}),
    "selu": ("SELU", {}),
    "gelu": ("GELU", {"approximate": "none"}),
    "leaky_relu": ("LeakyReLU", {"negative_slope": 0.01}),
    "elu": ("ELU", {"alpha": 1.0}),
}


def name_of(node: Node) -> str:
    """The operator's name without overload and the mark of working in place: `relu` for `aten.relu_.default`."""
    return str(getattr(node.target, "__name__", node.target)).split(".")[0].rstrip("_")


def in_place(node: Node) -> bool:
    """Does this operator write into its first argument?"""
    return str(getattr(node.target, "__name__", "")).split(".")[0].endswith("_")


def shape_of(node: Any) -> tuple[int, ...]:
    """The shape of a node's value; empty if it is no tensor."""
    value = node.meta.get("val") if isinstance(node, Node) else None
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def argument(node: Node, index: int, name: str, default: Any) -> Any:
    """A positional argument of a node, which may be left out or given by keyword."""
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)


def not_carried(node: Node) -> str:
    """The reason to leave a block that holds an operator of another kind."""
    if name_of(node) == "alias":  # what the export makes of a slice that takes all at the size of the example
        return "it takes a part of a map, which is the whole map at the size of the example"
    return f"it computes {name_of(node)}, which no chain of convolutions carries a map through"


def alias_of(node: Node) -> Node | None:
    """What this operator passes on unchanged in evaluation, or None if it computes something."""
    if node.target in IDENTITIES:
        return node.args[0]  # type: ignore[return-value]
    if node.target in _ALIASES and not argument(node, 2, "train", False):
        return node.args[0]  # type: ignore[return-value]
    return None


def read_operator(reader: Reader, node: Node) -> tuple[Operator, Node]:
    """What an operator computes, and the map it reads.

    Raises:
        UnreadableError: it is none that a chain can carry a map through.
    """
    source = node.args[0]
    if not isinstance(source, Node):
        raise UnreadableError(not_carried(node))
    if node.target in CONVOLUTIONS:
        return _convolution(reader, node), source
    if node.target is _aten.batch_norm.default:
        return _batch_norm(reader, node), source
    if node.target in _AVERAGES:
        return _average(node), source
    if node.target in _MAXIMA:
        return _single_pixel(node), source
    if node.target is _aten.slice.Tensor:
        return _slice(node), source
    if node.target in (_aten.constant_pad_nd.default, _aten.pad.default):
        return _pad(node), source
    if node.target in _PRODUCTS:
        return _scale(reader, node)
    return _activation(reader, node), source


def parameter_name(reader: Reader, node: Any, what: str) -> str | None:
    """The name of the tensor that an argument is, None for no argument."""
    if node is None:
        return None
    if isinstance(node, Node) and node.op == "placeholder" and node.name in reader.names:
        return reader.names[node.name]
    raise UnreadableError(f"{what} is computed in the forward pass; convswap.fuse makes plain convolutions of units")


def _convolution(reader: Reader, node: Node) -> Convolution:
    weight = parameter_name(reader, node.args[1], "the weight of a convolution")
    if len(reader.readers(node.args[1])) > 1:  # type: ignore[arg-type]
        raise UnreadableError(f"{weight} is used more than once")
    stride = _pair(argument(node, 3, "stride", 1))
    padding, dilation = argument(node, 4, "padding", 0), _pair(argument(node, 5, "dilation", 1))
    kernel = shape_of(node.args[1])[2:]
    if isinstance(padding, str):
        around = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
        if any(each % 2 for each in around):
            raise UnreadableError(f"{weight} pads its map by different extents on its two sides")
        padding = [each // 2 for each in around]
    bias = parameter_name(reader, argument(node, 2, "bias", None), "the bias of a convolution")
    return Convolution(str(weight), bias, stride, _pair(padding), dilation, argument(node, 6, "groups", 1))


def _batch_norm(reader: Reader, node: Node) -> BatchNorm:
    if node.args[5]:
        raise UnreadableError("a batch norm normalises by the batch")
    weight, bias, mean, variance = (parameter_name(reader, each, "a value of a batch norm") for each in node.args[1:5])
    return BatchNorm(str(mean), str(variance), weight, bias, float(node.args[7]))  # type: ignore[arg-type]


def _average(node: Node) -> AveragePool:
    kernel = _pair(node.args[1])
    stride, padding = _pair(argument(node, 2, "stride", None) or kernel), _pair(argument(node, 3, "padding", 0))
    ceil, with_padding = argument(node, 4, "ceil_mode", False), argument(node, 5, "count_include_pad", True)
    if (any(padding) and not with_padding) or argument(node, 6, "divisor_override", None):
        raise UnreadableError("an average pool leaves out its border or divides by another number")
    if not ceil:
        return AveragePool(kernel, stride, padding)
    sides = shape_of(node.args[0])[2:]
    if kernel != stride or any(padding) or any(side % s for side, s in zip(sides, stride, strict=True)):
        raise UnreadableError(
            f"an average pool with ceil_mode=True averages fewer pixels at the border of its {sides[0]}x{sides[1]} map"
        )
    return AveragePool(kernel, stride, padding, ceil=any(s > 1 for s in stride))


def _single_pixel(node: Node) -> Subsample:
    if _pair(node.args[1]) != (1, 1) or any(_pair(argument(node, 3, "padding", 0))):
        raise UnreadableError("it takes the maximum of several pixels")
    return Subsample(_pair(argument(node, 2, "stride", None) or 1))


def _slice(node: Node) -> Subsample:
    dim, start = argument(node, 1, "dim", 0), argument(node, 2, "start", None) or 0
    end, step = argument(node, 3, "end", None), argument(node, 4, "step", 1)
    length = shape_of(node.args[0])[dim]
    within = length if dim < 2 else _LONGEST  # a side of another image is longer
    if start != 0 or (end is not None and end < within) or (dim not in (2, 3) and step != 1):
        raise UnreadableError("it takes a part of a map")
    return Subsample((step if dim == 2 else 1, step if dim == 3 else 1))


def _pad(node: Node) -> PadChannels:
    borders = list(node.args[1])  # type: ignore[arg-type]
    mode, value = ("constant", argument(node, 2, "value", 0))
    if node.target is _aten.pad.default:
        mode, value = argument(node, 2, "mode", "constant"), argument(node, 3, "value", 0)
    before, after = borders[4:6] if len(borders) == 6 else (-1, -1)
    if mode != "constant" or value or any(borders[:4]) or min(before, after) < 0:
        raise UnreadableError("it pads a map besides its convolutions")
    return PadChannels(before, after)


def _scale(reader: Reader, node: Node) -> tuple[Scale, Node]:
    whole = shape_of(node)
    one, two = node.args[:2]
    for factor, source in ((one, two), (two, one)):
        if not isinstance(source, Node) or shape_of(source) != whole:
            continue
        if isinstance(factor, int | float):
            return Scale(float(factor)), source
        if isinstance(factor, Node) and factor.op == "placeholder" and factor.name in reader.names:
            sizes = shape_of(factor)
            if sizes[-3:] in ((whole[1], 1, 1), (1, 1, 1)) and all(size == 1 for size in sizes[:-3]):
                return Scale(reader.names[factor.name]), source
    raise UnreadableError("it multiplies maps in a way that is no channel gate")


def _activation(reader: Reader, node: Node) -> Activation:
    name = name_of(node)
    if name == "prelu":
        return Activation("PReLU", slope=parameter_name(reader, node.args[1], "the slope of a PReLU"))
    if name in ("clamp", "clamp_min"):
        low, high = argument(node, 1, "min", None), argument(node, 2, "max", None)
        if not isinstance(low, Node) and not isinstance(high, Node):
            return _clamp(-inf if low is None else float(low), inf if high is None else float(high))
    if name not in _ELEMENTWISE:
        raise UnreadableError(not_carried(node))
    module, defaults = _ELEMENTWISE[name]
    given = {key: argument(node, i, key, value) for i, (key, value) in enumerate(defaults.items(), 1)}
    if name == "elu" and any(argument(node, i, "", 1) != 1 for i in (2, 3)):
        raise UnreadableError(not_carried(node))
    if module == "Hardtanh":
        return _clamp(float(given["min_val"]), float(given["max_val"]))
    return Activation(module, given, _BOUNDS.get(module))


_BOUNDS = {"ReLU": (0.0, inf), "ReLU6": (0.0, 6.0)}


def _clamp(low: float, high: float) -> Activation:
    name = next((name for name, bounds in _BOUNDS.items() if bounds == (low, high)), "Hardtanh")
    return Activation(name, {"min_val": low, "max_val": high} if name == "Hardtanh" else {}, (low, high))


def _pair(value: Any) -> Pair:
    values = [value, value] if isinstance(value, int) else list(value)
    return (values[0], values[-1])
