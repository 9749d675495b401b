"""Depthwise convolutions with constant kernels: Gaussians and edge detectors (VGNet, arXiv:2207.10318)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...errors import UsageError, check_choice
from ...marks import KEY, difference
from ..contract.precision import compute_dtype
from ..contract.registry import register_unit
from ..contract.weight import WeightUnit
from . import banks

# Two constants from checkpoints count as the same kernel even after a detour through bfloat16.
_SAME = 1e-2


@register_unit(
    "fixed",
    paper="arXiv:2207.10318",
    year=2022,
    summary="depthwise convolution with constant Gaussian or edge-detecting kernels",
    warm_start="none",
    fusion="conv",
    default_where="depthwise & 3x3",
    placement="inferred",
    constant_weight=True,
    variants=(
        {"bank": "gaussian"},
        {"bank": "gaussian_signed", "sigma": 0.8},
        {"bank": "edge"},
        {"bank": "edge_gaussian", "scale": "learnable"},
    ),
    no_weight_decay=("channel_scale",),
)
class FixedConv2d(WeightUnit):
    """A depthwise convolution whose kernels are constants: `y_c = k_(c mod n) * x_c` for a bank of n kernels.

    The paper observes that trained depthwise kernels look like Gaussians where the map is sub-sampled and like
    edge detectors elsewhere. It replaces them by such constants; only the pointwise convolutions around them
    train. The bank is repeated along the output channels, so any number of channels is allowed.

    `weight`, (out_channels, 1, kH, kW), is a buffer, not a parameter: no optimizer sees it, unfreezing a model does not
    train it, and casting down and back restores it exactly. The state dictionary holds it. Loading other values into it
    (the trained kernels of a plain model, another bank) is an error, because they would not be used. Load the plain
    model first, then swap. Without bias and learnable scale the layer has no parameters at all.

    The authors' VGNetF has a BatchNorm behind every constant kernel. It is not part of a convolution: a host that has
    one keeps it, and `HalfIdentityBlock` and the VGNetF networks bring their own.

    Inferred by us: the placement (every 3x3 depthwise convolution) and `scale`.

    Args:
        bank: `"gaussian"`; `"gaussian_signed"`, the Gaussian and its negative in turn (the code at the time of the
            paper); `"edge"`, Sobel down and right, 8- and 4-neighbour Laplacian; `"edge_gaussian"`, these, two
            embosses and Gaussians of sigma 1.1 and 0.6; or `"auto"`, the paper's use: `"gaussian"` where the stride is
            larger than 1, `"edge_gaussian"` elsewhere.
        sigma: standard deviation of the Gaussian banks in pixels. None is 1.0; for `"gaussian_signed"` it is 1.1, at
            3x3 in the authors' four decimals (as in `"edge_gaussian"`), which differ from the formula by 2e-5.
        scale: `"none"`, or (ours) `"learnable"`: one factor per output channel, starting at 1, not weight decayed.

    The other arguments are those of `nn.Conv2d`; `groups` must be `in_channels`, the edge kernels are 3x3, a Gaussian
    takes any odd size.

    Raises:
        ValueError: an option, the groups or the kernel size is not allowed.
    """

    def setup(self, *, bank: str = "auto", sigma: float | None = None, scale: str = "none") -> None:
        """Check the options and build the unit; see the class."""
        check_choice("bank", bank, banks.BANKS)
        checked = banks.check_sigma(sigma, bank)
        check_choice("scale", scale, ("none", "learnable"))
        reason = _refused(self, bank)
        if reason is not None:
            raise UsageError(f"groups={self.groups}, kernel_size={self.kernel_size} is not allowed: {reason}")
        self.bank, self.sigma, self.scale = bank, checked, scale
        drawn = self.weight
        del self.weight
        self.register_buffer("weight", self.constants()["weight"].to(drawn.device, drawn.dtype))
        self.register_parameter("channel_scale", None)
        if scale == "learnable":
            self.channel_scale = nn.Parameter(torch.ones(self.out_channels, **self.place))

    @classmethod
    def supports(cls, conv: nn.Conv2d, **options: Any) -> str | None:
        """Why constant kernels cannot stand there (it is not depthwise, or the bank lacks that size), or None."""
        return _refused(conv, options.get("bank", "auto"))

    def constants(self) -> dict[str, Tensor]:
        """The kernels as they stand, `weight` (out_channels, 1, kH, kW), in float64."""
        size = (self.kernel_size[0], self.kernel_size[1])
        own = banks.resolve(self.bank, self.stride)
        sigma = self.sigma if own in ("gaussian", "gaussian_signed") else None
        return {"weight": banks.tiled(own, size, self.out_channels, sigma)}

    def _placed(self, value: Tensor) -> Tensor:
        return value.to(self.weight.device, self.weight.dtype)

    def reset_parameters(self) -> None:
        """Draw the bias as `nn.Conv2d` does; a learnable scale returns to 1."""
        if self.bias is not None:
            bound = 1 / math.sqrt(self.kernel_size[0] * self.kernel_size[1])
            nn.init.uniform_(self.bias, -bound, bound)
        if self._parameters.get("channel_scale") is not None:
            nn.init.ones_(self.channel_scale)

    def effective_weight(self) -> Tensor:
        """The kernels, each times its channel's learnable scale: (out_channels, 1, kH, kW)."""
        if self.channel_scale is None:
            return self.weight
        dtype = compute_dtype(self.weight.dtype)
        return self.weight.to(dtype) * self.channel_scale.to(dtype)[:, None, None, None]

    def copy_initial(self, conv: nn.Conv2d) -> None:
        """Copy the host's bias; this unit does not use its kernels."""
        if conv.bias is not None and self.bias is not None:
            self.bias.copy_(conv.bias)

    def fuse(self) -> nn.Conv2d:
        """A plain `nn.Conv2d`. Its weight is frozen unless a trainable scale was folded into it."""
        conv = super().fuse()
        conv.weight.requires_grad_(self.channel_scale is not None and self.channel_scale.requires_grad)
        if conv.bias is not None:
            conv.bias.requires_grad_(self.bias is not None and self.bias.requires_grad)
        return conv

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Register a parameter; one in the place of the constant kernels is refused."""
        if name == "weight" and param is not None and "options" in self.__dict__ and "place" not in self.__dict__:
            # torch has taken the buffer away already
            self._buffers["weight"] = self.constants()["weight"].to(param.device, param.dtype)
        super().register_parameter(name, param)

    def recognizes(self, given: Mapping[str, Tensor]) -> bool:
        """Are these the bank's kernels? The authors' states have no other names than a plain convolution's."""
        return given["weight"].is_meta or self._is_the_bank(given["weight"])

    def _is_the_bank(self, given: Tensor) -> bool:
        exact = self.constants()["weight"]
        return bool((given.to("cpu", torch.float64) - exact).abs().max() <= _SAME * exact.abs().max())

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Load, refusing other kernels than the bank's. The unit keeps its exact constants."""
        given = state_dict.get(prefix + "weight")
        mark = state_dict.get(prefix + KEY)
        claimed = mark is None or difference(mark, self.mark()) is None
        fits = isinstance(given, Tensor) and given.shape == self.weight.shape and not given.is_meta
        if claimed and fits and not self._is_the_bank(cast(Tensor, given)):
            error_msgs.append(
                f"{prefix}weight holds other kernels than bank={self.bank!r} with sigma={self.sigma!r}, which are "
                "constant; to start from a plain model, load its weights before the swap"
            )
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        lacks_scale = prefix + "weight" not in missing_keys and prefix + "channel_scale" in missing_keys
        if lacks_scale and self.channel_scale is not None and not self.channel_scale.is_meta:
            missing_keys.remove(prefix + "channel_scale")  # the authors' layers have no scale, so ours stays as it is
        self._replace_constants()


def _refused(conv: nn.Conv2d, bank: str) -> str | None:
    """Why a bank cannot stand for this convolution, or None."""
    own = banks.resolve(bank, conv.stride)
    if conv.groups != conv.in_channels:
        return f"constant kernels are depthwise: groups={conv.groups} must be in_channels={conv.in_channels}"
    reason = banks.refused_size(own, conv.kernel_size)
    if reason is not None and bank == "auto" and own == "edge_gaussian":
        reason += "; bank='gaussian' takes any odd size"
    return reason
