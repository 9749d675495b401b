"""RMRep networks of RMNet (arXiv:2111.00687), and the RepVGG networks beside them, registered with timm.

A stem of two `RepBlock` with stride 2, then four stages of 64, 128, 256 and 512 maps: a `RepBlock` with stride 2 (not
in the first stage), then d pairs of a `ReservedRepBlock` and a `RepBlock`, d = 2, 4, 8, 16. The number in a name counts
the 3x3 convolutions of the deployed form, `8 d + 5`. `rmrep_*` reserves 0.25 (21 and 37), 0.5 (69) or 0.75 (133) of the
channels. `repvgg_*` reserves none and is RepVGG.

`convswap.fuse` makes every block one 3x3 convolution: a plain chain without additions. `inference_mode=True` builds
that form, as timm's RepVGG does.

Importing this module imports timm; afterwards `timm.create_model("rmrep_21")` works.
"""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from ..errors import UsageError, check_choice, check_whole, is_number
from .classifier import Classifier, imagenet_cfg
from .rep_layers import RepBlock, ReservedRepBlock, deployed

WIDTHS = (64, 128, 256, 512)


class RMRep(Classifier):
    """A network of re-parameterisable blocks: (N, in_chans, H, W) -> (N, num_classes).

    Args:
        pairs: d, the pairs of blocks in each stage.
        ratio: the share of the channels that the first block of a pair reserves, at least 0 and below 1.
        squeeze_excite: a gate in the first block of each pair ("RMRep-SE"). It keeps the deployed form from being a
            plain chain.
        inference_mode: build the deployed form.
        num_classes: outputs of the classifier; 0 leaves it out and returns the 512 features.
        in_chans: channels of the images.
        global_pool: `"avg"`, or `""` to leave the feature map unpooled (then without classifier).
        drop_rate: dropout before the classifier while training.

    Raises:
        ValueError: an argument is not allowed.
    """

    classifier_name = "fc"
    can_checkpoint = True

    def __init__(
        self,
        pairs: int,
        ratio: float,
        *,
        squeeze_excite: bool = False,
        inference_mode: bool = False,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        check_whole("pairs", pairs)
        if not is_number(ratio) or not 0 <= ratio < 1:
            raise UsageError(f"ratio={ratio!r} is not allowed; it must be at least 0 and below 1")
        check_choice("squeeze_excite", squeeze_excite, (True, False))
        check_choice("inference_mode", inference_mode, (True, False))
        self.num_features = self.head_hidden_size = WIDTHS[-1]
        self.stem = nn.Sequential(RepBlock(in_chans, WIDTHS[0], 2), RepBlock(WIDTHS[0], WIDTHS[0], 2))
        self.stages, channels = nn.Sequential(), WIDTHS[0]
        self.feature_info: list[dict[str, Any]] = []
        for index, width in enumerate(WIDTHS):
            stage = nn.Sequential()
            if index:
                stage.append(RepBlock(channels, width, 2))
            for _ in range(pairs):
                stage.extend([ReservedRepBlock(width, ratio, squeeze_excite=squeeze_excite), RepBlock(width, width)])
            self.stages.append(stage)
            channels = width
            self.feature_info.append({"num_chs": width, "reduction": 4 << index, "module": f"stages.{index}"})
        if inference_mode:
            for stage in (self.stem, *self.stages):
                for number, block in enumerate(stage):
                    stage[number] = _deployed(block)
        self.drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)

    def forward_features(self, x_NCHW: Tensor) -> Tensor:
        """The last feature map, (N, 512, H/32, W/32)."""
        x_NCHW = self.run_stage(self.stem, x_NCHW)
        for stage in self.stages:
            x_NCHW = self.run_stage(stage, x_NCHW)
        return x_NCHW


def _deployed(block: RepBlock | ReservedRepBlock) -> nn.Sequential:
    """A freshly drawn block in the form that `fuse` gives a trained one."""
    old = block.conv33
    reserved = getattr(block, "reserved", 0)
    conv = nn.Conv2d(old.in_channels, old.out_channels + reserved, 3, old.stride[0], 1)
    return deployed(conv, getattr(block, "se", None))


_DEPTHS = {21: (2, 0.25), 37: (4, 0.25), 69: (8, 0.5), 133: (16, 0.75)}

default_cfgs = generate_default_cfgs(
    {
        f"{family}_{depth}.untrained": imagenet_cfg("stem.0.conv33", "fc")
        for family in ("rmrep", "repvgg")
        for depth in _DEPTHS
    }
)


def _build(name: str, pretrained: bool, arguments: dict[str, Any]) -> RMRep:
    family, _, depth = name.partition("_")
    pairs, ratio = _DEPTHS[int(depth)]
    own: dict[str, Any] = {"pairs": pairs, "ratio": ratio if family == "rmrep" else 0.0}
    return build_model_with_cfg(RMRep, name, pretrained, **(own | arguments))


@register_model
def rmrep_21(pretrained: bool = False, **arguments: Any) -> RMRep:
    """RMRep-21, a quarter of the channels reserved."""
    return _build("rmrep_21", pretrained, arguments)


@register_model
def rmrep_37(pretrained: bool = False, **arguments: Any) -> RMRep:
    """RMRep-37, a quarter of the channels reserved."""
    return _build("rmrep_37", pretrained, arguments)


@register_model
def rmrep_69(pretrained: bool = False, **arguments: Any) -> RMRep:
    """RMRep-69, half of the channels reserved."""
    return _build("rmrep_69", pretrained, arguments)


@register_model
def rmrep_133(pretrained: bool = False, **arguments: Any) -> RMRep:
    """RMRep-133, three quarters of the channels reserved."""
    return _build("rmrep_133", pretrained, arguments)


@register_model
def repvgg_21(pretrained: bool = False, **arguments: Any) -> RMRep:
    """RepVGG of the depth of RMRep-21."""
    return _build("repvgg_21", pretrained, arguments)


@register_model
def repvgg_37(pretrained: bool = False, **arguments: Any) -> RMRep:
    """RepVGG of the depth of RMRep-37."""
    return _build("repvgg_37", pretrained, arguments)


@register_model
def repvgg_69(pretrained: bool = False, **arguments: Any) -> RMRep:
    """RepVGG of the depth of RMRep-69."""
    return _build("repvgg_69", pretrained, arguments)


@register_model
def repvgg_133(pretrained: bool = False, **arguments: Any) -> RMRep:
    """RepVGG of the depth of RMRep-133."""
    return _build("repvgg_133", pretrained, arguments)
