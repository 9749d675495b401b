"""The plain convolution as a unit: the baseline every other unit is compared with."""

from __future__ import annotations

from torch import Tensor, nn

from .contract.registry import register_unit
from .contract.weight import WeightUnit


@register_unit(
    "conv",
    paper="LeCun et al. 1989",
    year=1989,
    summary="the plain convolution, the baseline of every comparison",
    warm_start="exact",
    fusion="conv",
    default_where="all",
    placement="paper",
)
class PlainConv2d(WeightUnit):
    """The plain convolution: `effective_weight() = weight`. Same arguments as `nn.Conv2d`, no options."""

    # No mark, because the state is a plain convolution's in every respect.
    get_extra_state = nn.Module.get_extra_state
    set_extra_state = nn.Module.set_extra_state

    def effective_weight(self) -> Tensor:
        """The weight itself, (out_channels, in_channels/groups, kH, kW)."""
        return self.weight
