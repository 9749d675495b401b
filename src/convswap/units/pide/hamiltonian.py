"""The Hamiltonian (Verlet) and parabolic residual blocks that stand for one step of a differential equation."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UsageError, check_choice, check_number
from ..contract.block import BlockUnit, Place
from ..contract.registry import register_unit
from ..support.folding import fold_conv_norm

FORMS = ("verlet", "parabolic")
KERAS_NORM: dict[str, Any] = {
    "eps": 1e-3,
    "momentum": 0.01,
}  # of the official code; Keras' momentum .99 is 1 - .99 here


@register_unit(
    "hamiltonian",
    replaces="block",
    paper="arXiv:2108.02430",
    year=2022,
    summary="one leapfrog step of a Hamiltonian system: two halves of the channels push each other",
    warm_start="none",
    fusion="cheaper",
    default_where="same",
    placement="inferred",
    train_eval="batch_norm",
    variants=({"form": "parabolic"}, {"step": 0.5}),
)
class HamiltonianBlock(BlockUnit):
    """A step of size h = `step`: (N, C, H, W) -> (N, C, H, W), stride 1.

    - `form="verlet"`: with x = [y, z], two halves of the channels, `y' = y + h (K1^T relu(BN(K1 z + b1)) + b1)` and
      `z' = z - h (K2^T relu(BN(K2 y' + b2)) + b2)`. K is a 3x3 convolution C/2 -> C/2 with zero padding, K^T its
      exact adjoint: the transposed convolution with the same weight.
    - `form="parabolic"`: `x' = x - h (K^T relu(BN(K x + b)) + b)` with K: C -> C.

    The same bias stands inside the rectifier and, as in the official code, behind the transpose. The block is due to
    Chang, Haber et al. Here it is the local block of the networks with integral operators (arXiv:2108.02430).
    Parameters: `4.5 C^2 + 3 C` (verlet), `9 C^2 + 3 C` (parabolic). The sums have no rectifier behind them, so the
    block can be inverted step by step (verlet), and a small h keeps it near the identity.

    `fuse()` folds each BatchNorm into a scaled copy of K for the first convolution; the transpose keeps the weight.

    Args:
        in_channels, out_channels, stride: the place: equal channels (even for verlet) and stride 1.
        form: see above.
        step: h, a positive number; the authors use 0.03 to 0.06. `block.step` may be set later.

    Raises:
        ValueError: the channels differ or are odd, the stride is not 1, or an option is not allowed.
    """

    def setup(self, *, form: str = "verlet", step: float = 0.06) -> None:
        """Check the options and build the unit; see the class."""
        check_choice("form", form, FORMS)
        ends = (self.in_channels, self.out_channels, self.stride)
        reason = refuse_change(*ends) or _refuse_odd(self.in_channels, form)
        if reason is not None:
            raise UsageError("in_channels={}, out_channels={}, stride={}: {}".format(*ends, reason))
        check_positive("step", step)
        self.form, self.step = form, float(step)
        place = self.place
        channels = self.in_channels // 2 if form == "verlet" else self.in_channels
        self.conv1 = draw_conv(channels, channels, 3, **place)
        self.bn1 = nn.BatchNorm2d(channels, **KERAS_NORM, **place)
        if form == "verlet":
            self.conv2 = draw_conv(channels, channels, 3, **place)
            self.bn2 = nn.BatchNorm2d(channels, **KERAS_NORM, **place)

    @property
    def step(self) -> float:
        """h, the step's size; it may be set later."""
        return self.options["step"]

    @step.setter
    def step(self, size: float) -> None:
        self.options["step"] = float(size)

    @classmethod
    def supports(cls, place: Place, **options: Any) -> str | None:
        """Why the block cannot stand there (channels that change or are odd, a stride), or None."""
        changed = refuse_change(place.in_channels, place.out_channels, place.stride)
        return changed or _refuse_odd(place.in_channels, options.get("form", "verlet"))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        if self.form == "parabolic":
            return torch.add(x_NCHW, _push(self.conv1, self.bn1, x_NCHW), alpha=-self.step)
        y, z = _halves(x_NCHW)
        y = torch.add(y, _push(self.conv1, self.bn1, z), alpha=self.step)
        z = torch.add(z, _push(self.conv2, self.bn2, y), alpha=-self.step)
        return torch.cat([y, z], 1)

    def fuse(self) -> FusedHamiltonian:
        """The inference form: the BatchNorms folded, equal in evaluation.

        Raises:
            FusionError: a BatchNorm keeps no running statistics.
        """
        return FusedHamiltonian(self)


class FusedHamiltonian(nn.Module):
    """The inference form of `HamiltonianBlock`: each K scaled by its BatchNorm, and its unscaled transpose."""

    def __init__(self, block: HamiltonianBlock) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.stride = block.in_channels, block.out_channels, block.stride
        self.form, self.step = block.form, block.step
        pairs = [(block.conv1, block.bn1), *([(block.conv2, block.bn2)] if block.form == "verlet" else [])]
        self.pushes = nn.ModuleList(
            nn.Sequential(fold_conv_norm(conv, norm), nn.ReLU(inplace=True), _transposed(conv)) for conv, norm in pairs
        )
        self.train(block.training)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        if self.form == "parabolic":
            return torch.add(x_NCHW, self.pushes[0](x_NCHW), alpha=-self.step)
        y, z = _halves(x_NCHW)
        y = torch.add(y, self.pushes[0](z), alpha=self.step)
        z = torch.add(z, self.pushes[1](y), alpha=-self.step)
        return torch.cat([y, z], 1)


def _push(conv: nn.Conv2d, norm: nn.BatchNorm2d, x_NCHW: Tensor) -> Tensor:
    """`K^T relu(BN(K x + b)) + b`."""
    return F.conv_transpose2d(norm(conv(x_NCHW)).relu_(), conv.weight, conv.bias, padding=1)


def _halves(x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    half = x_NCHW.shape[1] // 2
    return x_NCHW[:, :half], x_NCHW[:, half:]


@torch.no_grad()
def _transposed(conv: nn.Conv2d) -> nn.ConvTranspose2d:
    """The adjoint as a module of its own, with a copy of the weight and the bias."""
    weight, bias = conv.weight, cast(Tensor, conv.bias)
    place: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
    twin = nn.utils.skip_init(nn.ConvTranspose2d, *weight.shape[:2], 3, padding=1, **place)
    twin.weight.copy_(weight).requires_grad_(weight.requires_grad)
    cast(Tensor, twin.bias).copy_(bias).requires_grad_(bias.requires_grad)
    return twin


def draw_conv(in_channels: int, out_channels: int, kernel_size: int, *, bias: bool = True, **place: Any) -> nn.Conv2d:
    """A "same" convolution drawn as in the official code: normal of deviation sqrt(2 / fan_in), biases 0.

    Keras truncates that normal distribution at two deviations; here it is whole.
    """
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias, **place)
    nn.init.kaiming_normal_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def refuse_change(in_channels: int, out_channels: int, stride: int) -> str | None:
    """Why a step of an equation cannot stand there, or None. A step changes the values of a map, not its shape."""
    if stride != 1:
        return f"it keeps the size of the map and so needs stride 1, not {stride}"
    if in_channels != out_channels:
        return f"it needs as many output as input channels, not {in_channels}->{out_channels}"
    return None


def _refuse_odd(channels: int, form: object) -> str | None:
    if form != "verlet" or channels % 2 == 0:
        return None
    return f"it splits its channels into halves and so needs an even number, not {channels}; or form='parabolic'"


def check_positive(name: str, value: object, most: float = math.inf) -> None:
    """Refuse anything but a number between 0 and `most`, both excluded.

    Raises:
        ValueError: it is not.
    """
    wanted = "a positive number" if most == math.inf else f"a number between 0 and {most:g}, both excluded"
    check_number(name, value, lambda number: 0 < number < most, wanted)
