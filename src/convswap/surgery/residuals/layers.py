"""The layers of a chain without additions, and their description as data: `load` builds them again from it."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from ...errors import StoreError
from ...units.contract.geometry import Geometry

Layer = list[Any]


class ChannelClamp(nn.Module):
    """A clamp with bounds of its own for each channel: `y_c = min(max(x_c, low_c), high_c)`, (N, C, H, W).

    The carried channels have infinite bounds and stay as they are. RMNet's code uses a PReLU instead, which equals no
    ReLU6 (arXiv:2111.00687).

    >>> ChannelClamp(torch.tensor([-torch.inf, 0.0]), torch.tensor([torch.inf, 6.0]))(torch.full((1, 2, 1, 1), -3.0))
    tensor([[[[-3.]],
    <BLANKLINE>
             [[ 0.]]]])
    """

    low: Tensor
    high: Tensor

    def __init__(self, low: Tensor, high: Tensor) -> None:
        super().__init__()
        self.register_buffer("low", low.reshape(-1, 1, 1))
        self.register_buffer("high", high.reshape(-1, 1, 1))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Clamp each channel."""
        return torch.clamp(x_NCHW, self.low.to(x_NCHW.dtype), self.high.to(x_NCHW.dtype))

    def extra_repr(self) -> str:
        """Show the number of channels in `print(model)`."""
        return str(len(self.low))


class PartialActivation(nn.Module):
    """An activation on all channels but the first `carried` ones, which pass unchanged."""

    def __init__(self, carried: int, activation: nn.Module) -> None:
        super().__init__()
        self.carried, self.activation = carried, activation

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Activate the channels behind the carried ones."""
        kept, rest = x_NCHW[:, : self.carried], x_NCHW[:, self.carried :]
        return torch.cat([kept, self.activation(rest)], 1)

    def extra_repr(self) -> str:
        """Show the number of carried channels in `print(model)`."""
        return f"carried={self.carried}"


class ChannelGate(nn.Sequential):
    """Squeeze and excite: `y = x * g(mean(x))`, where g is the sequence of layers on one pixel, (N, C, H, W)."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Multiply each channel by its gate."""
        return x_NCHW * super().forward(x_NCHW.mean((2, 3), keepdim=True))


class DivisibleSides(nn.Module):
    """Passes on maps whose sides the stride divides, and refuses others.

    The average pool of the shortcut that stood here averages fewer pixels at the border of other maps. No convolution
    does so.
    """

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """The map as it is.

        Raises:
            ValueError: a side is not divisible.
        """
        height, width = x_NCHW.shape[2:]
        if height % self.rows or width % self.columns:
            raise ValueError(
                f"a map of {height}x{width} pixels comes to a block whose addition was removed for maps with sides "
                f"divisible by {self.rows}x{self.columns}; resize the image"
            )
        return x_NCHW

    def extra_repr(self) -> str:
        """Show the divisors in `print(model)`."""
        return f"{self.rows}, {self.columns}"


def describe(layer: nn.Module) -> Layer:
    """A layer as plain data, without its values."""
    if isinstance(layer, nn.Conv2d):
        return ["conv", Geometry.of(layer).arguments()]
    if isinstance(layer, nn.BatchNorm2d):
        return ["norm", layer.num_features, layer.eps]
    if isinstance(layer, ChannelClamp):
        return ["clamp", len(layer.low)]
    if isinstance(layer, DivisibleSides):
        return ["divisible", layer.rows, layer.columns]
    if isinstance(layer, PartialActivation):
        return ["partial", layer.carried, describe(layer.activation)]
    if isinstance(layer, ChannelGate):
        return ["gate", [describe(each) for each in layer]]
    if isinstance(layer, nn.PReLU):
        return ["PReLU", {"num_parameters": layer.num_parameters}]
    return [type(layer).__name__, {name: getattr(layer, name) for name in _ARGUMENTS if hasattr(layer, name)}]


# The arguments of the activations that `operators` reads, which their modules keep by the same names.
_ARGUMENTS = ("min_val", "max_val", "approximate", "negative_slope", "alpha")
_PLAIN = ("ReLU", "Hardtanh", "SiLU", "Hardswish", "Hardsigmoid", "Sigmoid", "Tanh", "Mish", "SELU")
ACTIVATIONS = (*_PLAIN, "ReLU6", "GELU", "LeakyReLU", "ELU", "PReLU")


def build(layer: Layer, like: Tensor) -> nn.Module:
    """A layer from its description, with the device and dtype of `like`. The values come later.

    Raises:
        StoreError: the description is of a kind that this version does not know.
    """
    kind, *arguments = layer
    place: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
    if kind == "conv":
        return cast(nn.Module, nn.utils.skip_init(nn.Conv2d, **arguments[0], **place))
    if kind == "norm":
        return nn.BatchNorm2d(*arguments, **place)
    if kind == "clamp":
        return ChannelClamp(*(torch.zeros(arguments[0], **place) for _ in range(2)))
    if kind == "divisible":
        return DivisibleSides(*arguments)
    if kind == "partial":
        return PartialActivation(arguments[0], build(arguments[1], like))
    if kind == "gate":
        return ChannelGate(*(build(each, like) for each in arguments[0]))
    if kind == "PReLU":
        return nn.PReLU(**arguments[0], **place)
    if kind in ACTIVATIONS:
        given = {} if kind == "ReLU6" else arguments[0]
        return cast(nn.Module, getattr(nn, kind)(**given))
    raise StoreError(f"unknown layer {kind!r} of a removed residual block; a newer convswap may know it")
