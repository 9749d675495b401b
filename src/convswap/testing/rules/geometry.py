"""A unit has the shapes of `nn.Conv2d` wherever `supports` allows it, and keeps the memory format."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ...units import Geometry
from ..aids import demand_close, image
from ..case import Case
from ..drawing import Drawn, convolutions, for_drawn
from ..rule import CONVOLUTIONS, demand, rule
from .constructor import raised


@rule(CONVOLUTIONS)
def shape_and_dtype_are_those_of_conv2d(case: Case) -> None:
    """The output must have `nn.Conv2d`'s shape and dtype in every geometry that `supports` does not refuse."""

    def check(place: Drawn) -> None:
        conv, x = place.conv, place.x_NCHW
        reason = case.refuses(conv)
        if reason is not None:
            _demand_refused(case, conv, reason)
            return
        expected = conv(x)
        unit = case.build(Geometry.of(conv).arguments(), dtype=x.dtype).eval()
        output = unit(x)
        demand(output.shape == expected.shape, f"shape {tuple(output.shape)}, must be {tuple(expected.shape)}")
        demand(output.dtype == expected.dtype, f"dtype {output.dtype}, must be {expected.dtype}")
        if case.spec.kind == "weight" and len(x):
            demand_close(unit(x[0]), output[0], 1e-5, "one image without a batch dimension")

    for_drawn(check, 25, place=convolutions())


def _demand_refused(case: Case, conv: nn.Conv2d, reason: str) -> None:
    """`from_conv` and `fresh_like` must refuse a refused place with the reason of `supports`; the constructor, too."""
    demand(isinstance(reason, str) and bool(reason.strip()), f"supports() gives {reason!r}, which is not a reason")
    for start in ("from_conv", "fresh_like"):
        build = getattr(case.cls, start)
        raised(f"{start} of a refused place", ValueError, partial(build, conv, **case.options), reason)
    geometry = Geometry.of(conv).arguments()
    raised("the constructor in a refused place", ValueError, lambda: case.build(geometry))


@rule()
def channels_last_is_kept(case: Case) -> None:
    """A channels_last input must give a channels_last output, without a copy to another layout inside."""
    unit = case.home().eval()
    x = image(unit, batch=5)
    expected = unit(x)
    unit.to(memory_format=torch.channels_last)
    with _Layouts() as layouts:
        output = unit(x.to(memory_format=torch.channels_last))
    demand(output.is_contiguous(memory_format=torch.channels_last), f"the output has strides {output.stride()}")
    demand_close(output, expected, 1e-5, "the output in channels_last")
    demand(not layouts.lost, f"copied from channels_last to another layout by {layouts.lost}")


class _Layouts(TorchDispatchMode):
    """Notes every copy that takes a feature map out of channels_last."""

    def __init__(self) -> None:
        super().__init__()
        self.lost: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._schema.name in ("aten::clone", "aten::contiguous", "aten::_to_copy", "aten::copy_"):
            source = args[1] if func._schema.name == "aten::copy_" else args[0]
            if _is_channels_last(source) and not result.is_contiguous(memory_format=torch.channels_last):
                self.lost.append(func._schema.name)
        return result


def _is_channels_last(x: torch.Tensor) -> bool:
    feature_map = x.dim() == 4 and len(x) == 5 and min(x.shape[1:]) > 1
    return feature_map and x.is_contiguous(memory_format=torch.channels_last)
