"""Networks of Hamiltonian blocks and integral operators (arXiv:2108.02430), registered with timm.

An opening 3x3 convolution, BatchNorm and ReLU are followed by three units of 6 or 18 Hamiltonian blocks. Each unit has
one nonlocal block: behind the second block if there are at most 6, else before the last. Between the units stand 2x2
average pooling and a 1x1 convolution with ReLU to the next width. An average pool to a small grid and a linear layer
come last.

Names are operator + `_` + data and blocks: `hamiltonian_cifar6` (no nonlocal block, the paper's type 0), `pide_cifar6`
(type 1, the weighted Laplacian), `pide_fractional_cifar6` (2), `pide_inverse_fractional_cifar6` (3), `pide_log_cifar6`
(4); the same with `cifar18` (18 blocks a unit, wider) and `stl10` (6 blocks, for 96x96 pixels). CIFAR-100 is
`num_classes=100`.

Importing this module imports timm; afterwards `timm.create_model("pide_cifar6")` works.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError, check_whole, is_whole
from ..units.pide.hamiltonian import KERAS_NORM, HamiltonianBlock, draw_conv
from ..units.pide.pide import PIDEBlock
from .classifier import IMAGENET_MEAN, IMAGENET_STD, Classifier, cifar_cfg

_FEW_BLOCKS = 6  # up to so many, the nonlocal block stands behind the second block, else before the last


class PIDENet(Classifier):
    """Three units of Hamiltonian blocks, each with a nonlocal block, for images of any size.

    The classifier sees `grid x grid` averages of the last map, flattened channel first. (The official code flattens
    channel last, so its weights need a permutation.)

    Args:
        widths: channels of the three units, even.
        blocks: Hamiltonian blocks in each unit.
        kernel: kernel of the nonlocal blocks, see `PIDEBlock`. None: there are no nonlocal blocks.
        s, scale, subsample: options of the nonlocal blocks.
        step: h of all blocks. The authors use 0.03 to 0.06.
        form: `"verlet"` or `"parabolic"`, see `HamiltonianBlock`.
        grid: side of the pooled map before the classifier: 4 for CIFAR, 3 for STL-10.
        num_classes: outputs of the classifier; 0 leaves it out and returns the pooled features.
        in_chans: channels of the images.
        global_pool: `"avg"`, or `""` to leave the feature map unpooled (then without classifier).
        drop_rate: dropout before the classifier while training.

    Raises:
        ValueError: an argument is not allowed.
    """

    classifier_name = "classifier"

    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 112),
        blocks: int = 6,
        *,
        kernel: str | None = "laplacian",
        s: float = 0.5,
        scale: float = 0.1,
        subsample: int = 2,
        step: float = 0.06,
        form: str = "verlet",
        grid: int = 4,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value in (("blocks", blocks), ("grid", grid)):
            check_whole(name, value)
        three = isinstance(widths, Sequence) and len(widths) == 3
        if not three or any(not is_whole(width) or width < 1 for width in widths):
            raise UsageError(f"widths={widths!r} is not allowed; give the channels of the three units, whole numbers")
        self.grid, self.num_features = grid, widths[2]
        self.head_hidden_size = widths[2] * grid * grid
        opening = [("conv", draw_conv(in_chans, widths[0], 3)), ("norm", nn.BatchNorm2d(widths[0], **KERAS_NORM))]
        self.stem = nn.Sequential(OrderedDict([*opening, ("act", nn.ReLU(inplace=True))]))
        local: dict[str, Any] = {"step": step, "form": form}
        far: dict[str, Any] | None = None
        if kernel is not None:
            far = {"kernel": kernel, "s": s, "scale": scale, "subsample": subsample, "step": step, "bias": True}
        self.units = nn.ModuleList(_unit(width, blocks, local, far) for width in widths)
        self.transitions = nn.ModuleList(_transition(*pair) for pair in pairwise(widths))
        self.feature_info = [
            {"num_chs": width, "reduction": 2**index, "module": f"units.{index}"} for index, width in enumerate(widths)
        ]
        self.drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)

    def make_classifier(self, num_classes: int, **place: Any) -> nn.Module:
        """A linear layer that reads every cell of the grid, drawn as by Keras' He normal."""
        linear = nn.Linear(self.head_hidden_size, num_classes, **place)
        nn.init.kaiming_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        return linear

    def forward_features(self, x_NCHW: Tensor) -> Tensor:
        """The last feature map, (N, widths[2], H/4, W/4)."""
        x_NCHW = self.units[0](self.stem(x_NCHW))
        for transition, unit in zip(self.transitions, self.units[1:], strict=True):
            x_NCHW = unit(transition(x_NCHW))
        return x_NCHW

    def forward_head(self, x_NCHW: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool to the grid and classify a feature map; `pre_logits` stops before the classifier."""
        if not self.global_pool:
            return x_NCHW
        x_NF = self.drop(F.adaptive_avg_pool2d(x_NCHW, self.grid).flatten(1))
        return x_NF if pre_logits else self.get_classifier()(x_NF)


def _unit(width: int, blocks: int, local: dict[str, Any], far: dict[str, Any] | None) -> nn.Sequential:
    parts: list[nn.Module] = [HamiltonianBlock(width, width, **local) for _ in range(blocks)]
    if far is not None:
        parts.insert(2 if blocks <= _FEW_BLOCKS else blocks - 1, PIDEBlock(width, width, **far))
    return nn.Sequential(*parts)


def _transition(in_channels: int, out_channels: int) -> nn.Sequential:
    # Rounded up, so that a map of odd size keeps its border and no map vanishes.
    halve = nn.AvgPool2d(2, ceil_mode=True)
    return nn.Sequential(halve, draw_conv(in_channels, out_channels, 1), nn.ReLU(inplace=True))


_OPERATORS: dict[str, str | None] = {
    "hamiltonian": None,
    "pide": "laplacian",
    "pide_fractional": "fractional",
    "pide_inverse_fractional": "inverse_fractional",
    "pide_log": "log",
}
_SIZES: dict[str, dict[str, Any]] = {
    "cifar6": {"widths": (32, 64, 112), "blocks": 6},
    "cifar18": {"widths": (32, 64, 128), "blocks": 18},
    "stl10": {"widths": (32, 64, 112), "blocks": 6, "subsample": 4, "grid": 3},
}
_ARGUMENTS = {
    f"{operator}_{size}": {"kernel": kernel} | arguments
    for size, arguments in _SIZES.items()
    for operator, kernel in _OPERATORS.items()
}


def _cfg(name: str) -> dict[str, Any]:
    cfg = cifar_cfg("stem.conv", "classifier")
    if not name.endswith("stl10"):
        return cfg
    photographs = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}  # STL-10 is taken from ImageNet
    return cfg | {"input_size": (3, 96, 96), "pool_size": (24, 24)} | photographs


default_cfgs = generate_default_cfgs({f"{name}.untrained": _cfg(name) for name in _ARGUMENTS})


def _entry(name: str) -> Callable[..., PIDENet]:
    def build(pretrained: bool = False, **arguments: Any) -> PIDENet:
        return build_model_with_cfg(PIDENet, name, pretrained, **(_ARGUMENTS[name] | arguments))

    build.__name__ = build.__qualname__ = name
    operator = _ARGUMENTS[name]["kernel"]
    build.__doc__ = f"Hamiltonian blocks{f' and the {operator} operator' if operator else ''}; see the module."
    return register_model(build)


globals().update({name: _entry(name) for name in _ARGUMENTS})
