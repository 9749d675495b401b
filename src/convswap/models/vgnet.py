"""VGNet (arXiv:2207.10318): networks of 1 to 5 million parameters from two blocks, registered with timm.

Names are `vgnet` + variant + `_` + size, as `vgnetg_1_0mp`. The variants: **c**, all depthwise kernels learned; **g**,
Gaussians in the downsampling blocks; **f**, Gaussians there, edge detectors and Gaussians in all other blocks; **e**,
edge detectors alone in these (f and e in size 1.5MP). `_se` adds a channel gate of ratio 0.25 to every block. The sizes
are 1.0, 1.5, 2.0, 2.5 and 5.0 (MP: millions of parameters; the last is in the authors' code only).

The authors' code exists in two states, and so do these networks:

- at the time of the paper (no suffix): ReLU, a Gaussian of sigma 1.1 and its negative in turn, and in the last
  depthwise convolution eight groups of channels that share their kernels. These have the parameter counts of the paper.
- from 2022 on (suffix `_2022`; variant g, and c in size 1.0MP): SiLU, one Gaussian of sigma 1, a plain last depthwise
  convolution, dropout of 0.2. These fit the weights the authors released, whose names `official_state` translates.

The names beginning with `cifar_` are the thumbnail form (`thumbnail=True`): stem and first stage keep the size.
Constant kernels are buffers and not counted as parameters.

Importing this module imports timm; afterwards `timm.create_model("vgnetg_1_0mp")` works.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from ..errors import UsageError, check_choice
from ..marks import with_marks
from ..units.contract.weight import WeightUnit
from ..units.vgnet.downsampling import DownsamplingBlock
from ..units.vgnet.half_identity import HalfIdentityBlock
from ..units.vgnet.parts import ConvActNorm, make_depthwise
from .classifier import Classifier, imagenet_cfg
from .state import unwrap_state_dict

SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {  # channels of stem and stages, blocks of the stages
    "1_0mp": ((28, 56, 112, 224, 368), (4, 7, 13, 2)),
    "1_5mp": ((32, 64, 128, 256, 512), (3, 7, 14, 2)),
    "2_0mp": ((32, 72, 168, 376, 512), (3, 6, 13, 2)),
    "2_5mp": ((32, 80, 192, 400, 544), (3, 6, 16, 2)),
    "5_0mp": ((32, 88, 216, 456, 856), (4, 7, 15, 5)),
}
_VARIANTS = {"c": "learnable", "g": "learnable", "f": "edge_gaussian", "e": "edge"}  # depthwise kernels at stride 1


class SharedDepthwiseConv2d(WeightUnit):
    """A 3x3 depthwise convolution whose channels form `shares` equal chunks that all use the same kernels.

    `effective_weight()` repeats `weight`, (channels / shares, 1, 3, 3), `shares` times. Zero padding 1, no bias.

    Raises:
        ValueError: the channels cannot be divided into so many chunks.
    """

    def __init__(
        self,
        channels: int,
        *,
        shares: int = 8,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if shares < 1 or channels % shares:
            raise UsageError(f"shares={shares} is not allowed with channels={channels}; give a divisor of the channels")
        super().__init__(channels, channels, 3, padding=1, groups=channels, bias=False, device=device, dtype=dtype)
        self.shares = shares
        self.weight = nn.Parameter(self.weight.detach()[: channels // shares].clone())

    def effective_weight(self) -> Tensor:
        """(channels, 1, 3, 3)."""
        return self.weight.repeat(self.shares, 1, 1, 1)


class VGNetStage(nn.Module):
    """A downsampling block, then half-identity blocks on its two halves, then the concatenation of the halves."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        depth: int,
        stride: int,
        *,
        half: dict[str, Any],
        down: dict[str, Any],
    ) -> None:
        super().__init__()
        self.down = DownsamplingBlock(in_channels, out_channels, stride, **down)
        self.blocks = nn.ModuleList(HalfIdentityBlock(out_channels, out_channels, **half) for _ in range(depth - 1))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, ceil(H / stride), ceil(W / stride))."""
        u, v = self.down.forward_pair(x_NCHW)
        for block in self.blocks:
            u, v = block.forward_pair(u, v)  # type: ignore[operator]
        return torch.cat([u, v], 1)


class VGNet(Classifier):
    """Stem, four stages, a depthwise and a pointwise convolution, average pool, linear classifier.

    Args:
        channels: channels of the stem and of the four stages. Those of the stages are even.
        depths: blocks in each stage, including the downsampling block.
        depthwise: kernels of the half-identity blocks and of the last depthwise convolution: `"learnable"`, or the
            constant `"edge"`, `"edge_gaussian"` (and `"gaussian"`), each with a BatchNorm behind it.
        downsampling: `"blur"` (constant Gaussians) or `"learnable"`.
        bank: the Gaussians: `"gaussian_signed"` or `"gaussian"`.
        activation: `"relu"` or `"silu"`.
        squeeze_excite: ratio of the channel gates, 0 for none.
        shared: number of chunks that share the kernels of the last depthwise convolution, 1 for no sharing. Only
            learnable kernels are shared.
        thumbnail: stem and first stage keep the image size, for images of about 32x32. The total stride is 8, not 32.
        num_classes: outputs of the classifier; 0 leaves it out and returns the features.
        in_chans: channels of the images.
        global_pool: `"avg"`, or `""` to leave the feature map unpooled (then without classifier).
        drop_rate: dropout before the classifier while training.

    Raises:
        ValueError: an argument is not allowed.
    """

    classifier_name = "classifier"

    def __init__(
        self,
        channels: Sequence[int],
        depths: Sequence[int],
        *,
        depthwise: str = "learnable",
        downsampling: str = "blur",
        bank: str = "gaussian_signed",
        activation: str = "relu",
        squeeze_excite: float = 0.0,
        shared: int = 8,
        thumbnail: bool = False,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ):
        super().__init__()
        check_choice("thumbnail", thumbnail, (False, True))
        check_choice("downsampling", downsampling, ("blur", "learnable"))
        if len(channels) != 5 or len(depths) != 4 or min(depths) < 1:
            raise UsageError(
                f"channels={channels!r}, depths={depths!r} is not allowed; give the channels of the stem and of four "
                "stages, and four numbers of blocks, at least 1 each"
            )
        rest = {"activation": activation, "squeeze_excite": squeeze_excite}
        half = {"depthwise": depthwise, **rest}
        down = {"method": downsampling, "bank": bank, **rest}
        strides = (1, 1, 2, 2, 2) if thumbnail else (2, 2, 2, 2, 2)
        self.depths = tuple(depths)
        self.stem = ConvActNorm(in_chans, channels[0], 3, strides[0], activation=activation)
        stages = [
            VGNetStage(channels[i], channels[i + 1], depths[i], strides[i + 1], half=half, down=down) for i in range(4)
        ]
        self.stage1, self.stage2, self.stage3, self.stage4 = stages
        width = channels[4]
        self.last_depthwise: nn.Module
        if depthwise != "learnable":
            self.last_depthwise = make_depthwise(width, 1, depthwise)
        else:
            self.last_depthwise = (
                SharedDepthwiseConv2d(width, shares=shared) if shared != 1 else make_depthwise(width, 1, None)
            )
        self.last_norm = nn.Identity() if depthwise == "learnable" else nn.BatchNorm2d(width)
        self.last_pointwise = ConvActNorm(width, width, activation=activation)
        self.feature_info = [
            {"num_chs": channels[i + 1], "reduction": (1 if thumbnail else 4) * 2**i, "module": f"stage{i + 1}"}
            for i in range(4)
        ]
        self.num_features = self.head_hidden_size = width
        self.drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)

    def forward_features(self, x_NCHW: Tensor) -> Tensor:
        """The last feature map, (N, C, H/32, W/32), rounded up; H/8, W/8 for thumbnails."""
        x_NCHW = self.stage4(self.stage3(self.stage2(self.stage1(self.stem(x_NCHW)))))
        return self.last_pointwise(self.last_norm(self.last_depthwise(x_NCHW)))


_LAST = (  # after the depth of the last stage: plain, shared, and constant kernels with a BatchNorm behind them
    (r"0\.(?:mux\.)?weight", "last_depthwise.weight"),
    (r"1\.0\.", "last_pointwise.conv."),
    (r"(?:1|2)\.2\.", "last_pointwise.norm."),
    (r"2\.0\.", "last_pointwise.conv."),
    (r"1\.", "last_norm."),
)


def official_state(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The authors' parameter names (both states of their code) as those of a `VGNet`; other names pass through."""
    state = unwrap_state_dict(state)
    last = f"features.stage4.{model.depths[3] + 1}."  # type: ignore[index]
    gated = any(".conv1x1.1.reduce." in key for key in state)
    return with_marks(model, {_renamed(key, last, gated): value for key, value in state.items()})


def _renamed(key: str, last: str, gated: bool) -> str:
    if key.startswith(last):
        rest = key.removeprefix(last)
        return next((re.sub(f"^{old}", new, rest) for old, new in _LAST if re.match(old, rest)), key)
    key = re.sub(r"^classifier\.1\.", "classifier.", key)
    key = re.sub(r"^features\.stem\.0\.", "stem.conv.", re.sub(r"^features\.stem\.2\.", "stem.norm.", key))
    key = re.sub(r"^features\.(stage\d)\.0\.", r"\1.down.", key)
    key = re.sub(r"^features\.(stage\d)\.(\d+)\.", lambda m: f"{m[1]}.blocks.{int(m[2]) - 1}.", key)
    key = re.sub(r"half3x3\.1\.", "depthwise_norm.", re.sub(r"half3x3\.(?:0\.)?weight", "depthwise.weight", key))
    if gated:
        key = key.replace("conv1x1.1.", "pointwise.gate.").replace("conv1x1.0.", "conv1x1.")
    return key.replace("conv1x1.0.", "pointwise.conv.").replace("conv1x1.2.", "pointwise.norm.")


def _names() -> dict[str, dict[str, Any]]:
    """Every registered name and the arguments that make its network."""
    asked = [("c", size, False) for size in ("1_0mp", "1_5mp")]
    asked += [("g", size, gated) for size in SIZES for gated in (False, True)]
    asked += [("f", "1_5mp", False), ("e", "1_5mp", False)]
    found: dict[str, dict[str, Any]] = {}
    for variant, size, gated in asked:
        name = f"vgnet{variant}_{size}" + ("_se" if gated else "")
        channels, depths = SIZES[size]
        paper: dict[str, Any] = {"channels": channels, "depths": depths, "depthwise": _VARIANTS[variant]}
        paper |= {"downsampling": "learnable" if variant == "c" else "blur", "squeeze_excite": 0.25 if gated else 0.0}
        found[name] = paper
        if variant == "g" or (variant, size) == ("c", "1_0mp"):
            later = {"activation": "silu", "bank": "gaussian", "shared": 1, "drop_rate": 0.2}
            found[f"{name}_2022"] = paper | later
        if variant == "g" and not gated and size != "5_0mp":
            for suffix in ("", "_2022"):
                found[f"cifar_{name}{suffix}"] = found[f"{name}{suffix}"] | {"thumbnail": True}
    return found


_ARGUMENTS = _names()


def _cfg(name: str) -> dict[str, Any]:
    photographs = imagenet_cfg("stem.conv", "classifier")
    if not name.startswith("cifar_"):
        return photographs | {"crop_pct": 224 / 232}
    return photographs | {"num_classes": 100, "input_size": (3, 32, 32), "pool_size": (4, 4), "crop_pct": 1.0}


default_cfgs = generate_default_cfgs({f"{name}.untrained": _cfg(name) for name in _ARGUMENTS})


def _entry(name: str) -> Callable[..., VGNet]:
    def build(pretrained: bool = False, **arguments: Any) -> VGNet:
        given = _ARGUMENTS[name] | arguments
        return build_model_with_cfg(VGNet, name, pretrained, pretrained_filter_fn=official_state, **given)

    build.__name__ = build.__qualname__ = name
    size = name.split("_", 2 if name.startswith("cifar_") else 1)[-1]
    build.__doc__ = f"VGNet of size {size}; see the module's documentation for the variants."
    return register_model(build)


globals().update({name: _entry(name) for name in _ARGUMENTS})
