"""Loading a unit's state: its own, a plain convolution's, or one that it refuses."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...errors import ConvswapError, UsageError
from ...marks import KEY, Marked, author_of, name_of, writes_mark
from .geometry import Geometry
from .start import FromConv

_PLAIN = ({"weight"}, {"weight", "bias"})


class UnitState(Marked):
    """Mixin of the bases, before `nn.Module`: what `load_state_dict` does with an entry of a state dict.

    - A mark of this unit with these options: the state is loaded bit by bit.
    - Another mark: the state is refused.
    - No mark, and a plain convolution's names and shapes: the unit starts from it, as `from_conv` does. A unit without
      a warm start refuses it, and so does one that has taken over the host's BatchNorm, whose state is elsewhere.
    - No mark, and other names: the state is taken as this unit's own, with a warning. Published weights are of this
      kind.
    """

    def marked_options(self) -> dict[str, Any]:
        """The unit's options."""
        return cast(dict[str, Any], cast(Any, self).options)

    def recognizes(self, given: Mapping[str, Tensor]) -> bool:
        """Is a state without mark, under a plain convolution's names, nevertheless this unit's own? Default: no."""
        return False

    def settle(self, given: Mapping[str, Any], state: dict[str, Any], prefix: str, *, assign: bool) -> str | None:
        """Why this unit refuses the state, or None. A plain convolution's entries are replaced by a started unit's."""
        unit = cast(nn.Module, self)
        if KEY in given or not writes_mark(unit):
            return super().settle(given, state, prefix, assign=assign)
        plain = isinstance(self, FromConv) and _is_plain(self, given)
        if plain and not self.recognizes(given):
            try:
                started = started_unit(cast(FromConv, self), given, deliberate=False, assign=assign).state_dict()
            except ConvswapError as error:
                return str(error)
            for name in given:
                del state[prefix + name]
            state.update({prefix + name: value for name, value in started.items()})
            return None
        if not plain:
            warnings.warn(
                f"a state without marks is taken as that of {name_of(type(self))}; convswap.units.with_marks(model, "
                "state) confirms that the options agree",
                stacklevel=2,
            )
        for path, inner in unit.named_modules():  # the inner units' states belong to this one
            if writes_mark(inner):
                name = f"{path}.{KEY}".lstrip(".")
                state.setdefault(prefix + name, cast(Marked, inner).get_extra_state())
        return None


def _is_plain(unit: FromConv, given: Mapping[str, Any]) -> bool:
    """Has a state the names and the shape of the convolution in this unit's place?"""
    if set(given) not in _PLAIN or not isinstance(given["weight"], Tensor):
        return False
    return tuple(given["weight"].shape) == plain_shape(unit)


def plain_shape(unit: FromConv) -> tuple[int, ...]:
    """The shape of the weight of the convolution in a unit's place: (out, in/groups, kH, kW)."""
    own = Geometry.of(cast(nn.Module, unit))
    return (own.out_channels, own.in_channels // own.groups, *own.kernel_size)


def convolution_of(unit: FromConv, given: Mapping[str, Tensor], *, assign: bool = False) -> nn.Conv2d:
    """The convolution in a unit's place that holds these values: `weight`, and `bias` if there is one.

    Its precision is the finer of the values' and the unit's, or with `assign` that of the values.
    """
    weight, own = given["weight"], cast(Tensor, cast(Any, unit).weight)
    dtype = weight.dtype if assign else torch.promote_types(weight.dtype, own.dtype)
    arguments = Geometry.of(cast(nn.Module, unit)).arguments() | {"bias": "bias" in given}
    conv = nn.utils.skip_init(nn.Conv2d, **arguments, device=weight.device, dtype=dtype)
    with torch.no_grad():
        for name, value in given.items():
            getattr(conv, name).copy_(value)
    return conv.train(cast(nn.Module, unit).training)


def started_unit(unit: FromConv, given: Mapping[str, Tensor], *, deliberate: bool, assign: bool = False) -> nn.Module:
    """A new unit of this class and these options that starts from a convolution.

    Args:
        unit: says which class, which options and which geometry.
        given: the convolution's state.
        deliberate: whether a unit that keeps nothing of the convolution's function starts all the same.
        assign: whether the result has the precision of `given`.

    Raises:
        UsageError: the unit cannot start from the convolution, or keeps nothing of it.
    """
    cls = cast(Any, type(unit))
    options = cast(Any, unit).options
    conv = convolution_of(unit, given, assign=assign)
    if not deliberate:
        row = vars(author_of(cls)).get("_registered")
        kind = cls.warm_start_for(conv, **options) or (row.warm_start if row else "none")
        if kind == "none" or cls.absorbs_batch_norm:
            raise UsageError(
                f"{name_of(cls)} does not start by itself from a plain convolution's state; load it before the swap, "
                "or with convswap.load_plain(model, state)"
            )
        if kind == "approximate":
            warnings.warn(f"{name_of(cls)} starts only approximately from a plain convolution's state", stacklevel=2)
    return cast(nn.Module, cls.from_conv(conv, **options))
