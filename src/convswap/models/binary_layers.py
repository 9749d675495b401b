"""The layers of BinaryNets: binary, of k bits, or as the float twin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import UsageError, check_choice
from ..units import QuantizedConv2d, ShiftBatchNorm2d
from ..units.binary.quantizers import FULL

_EPS = 1e-4


@dataclass(frozen=True, kw_only=True)
class Layers:
    """The settings for the layers of one network.

    Attributes:
        binary: False for the float twin, which has plain convolutions and is otherwise the same.
        weight_bits, activation_bits, gradient_bits: options of `QuantizedConv2d`.
        stochastic: activations are rounded at random while training.
        norm: `"batch"`, or `"shift"` for shift-based batch normalisation.
        bias: whether the convolutions have a bias. (The normalisation behind them cancels it.)
        scaled: True draws latent weights from all of [-1, 1] and trains them at Glorot's rate (the paper). False draws
            them as `nn.Conv2d` does and trains them at the plain rate (the authors' PyTorch code). The float twin of
            the former is drawn by Glorot's uniform rule.
    """

    binary: bool = True
    weight_bits: int = 1
    activation_bits: int = 1
    gradient_bits: int = FULL
    stochastic: bool = False
    norm: str = "batch"
    bias: bool = False
    scaled: bool = True

    def __post_init__(self) -> None:
        for name in ("binary", "stochastic"):
            check_choice(name, getattr(self, name), (True, False))
        check_choice("norm", self.norm, ("batch", "shift"))
        if not self.binary and (self.weight_bits, self.activation_bits, self.stochastic) != (1, 1, False):
            raise UsageError("binary=False is the float twin; it takes no weight_bits, activation_bits or stochastic")

    def conv(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        *,
        first: bool = False,
        dropout: float = 0.0,
        bias: bool | None = None,
        **place: Any,
    ) -> nn.Module:
        """A convolution of the network. The first one takes real inputs. Dropout acts on the (quantised) inputs."""
        chosen = self.bias if bias is None else bias
        geometry = (in_channels, out_channels, kernel, stride, padding)
        if not self.binary:
            plain = nn.Conv2d(*geometry, bias=chosen, **place)
            if self.scaled:
                nn.init.xavier_uniform_(plain.weight)
            return nn.Sequential(nn.Dropout(dropout), plain) if dropout else plain
        unit = QuantizedConv2d(
            *geometry,
            bias=chosen,
            weight_bits=self.weight_bits,
            activation_bits=FULL if first else self.activation_bits,
            gradient_bits=self.gradient_bits,
            activation_rounding="stochastic" if self.stochastic and not first else "nearest",
            learning_rate="glorot" if self.scaled else "plain",
            dropout=dropout,
            **place,
        )
        if self.scaled:
            nn.init.uniform_(unit.weight, -1, 1)
        return unit

    def normalization(self, channels: int, **place: Any) -> nn.Module:
        """The normalisation of a feature map."""
        if self.norm == "shift":
            return ShiftBatchNorm2d(channels, **place)
        return nn.BatchNorm2d(channels, eps=_EPS, **place)

    def layer(self, conv: nn.Module, pool: nn.Module | None = None, *, last: bool = False) -> nn.Sequential:
        """convolution - (pooling) - normalisation - HardTanh (not after the last); the sign is the next one's."""
        layer = nn.Sequential()
        layer.add_module("conv", conv)
        if pool is not None:
            layer.add_module("pool", pool)
        channels = next(m.out_channels for m in conv.modules() if isinstance(m, nn.Conv2d))
        place = next(conv.parameters())
        layer.add_module("norm", self.normalization(channels, device=place.device, dtype=place.dtype))
        if not last:
            layer.add_module("act", nn.Hardtanh(inplace=True))
        return layer
