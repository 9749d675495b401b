"""The cases of the contract: a unit with one set of options, and the geometries in which it is tried.

Registration alone makes a unit a case. A unit of kind `"block"` replaces more than one convolution. Its geometry is
channels and stride, and the rules about `nn.Conv2d` do not concern it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..units import Place, UnitSpec, get_unit, list_units


@dataclass(frozen=True, repr=False)
class Case:
    """One unit with one set of options."""

    spec: UnitSpec
    options: Mapping[str, Any]

    def __str__(self) -> str:
        options = ",".join(f"{k}={v}" for k, v in self.options.items())
        return f"{self.spec.name}({options})"

    __repr__ = __str__

    @property
    def cls(self) -> Any:
        """The unit's class."""
        return self.spec.cls

    @property
    def block(self) -> bool:
        """Does the unit replace more than one convolution?"""
        return self.spec.kind == "block"

    @property
    def stochastic(self) -> bool:
        """Does training draw random numbers?"""
        return self.spec.train_eval == "stochastic"

    def build(self, geometry: Mapping[str, Any], **place: Any) -> Any:
        """A unit built by its constructor."""
        return self.cls(**(dict(geometry) | dict(self.options)), **place)

    def from_conv(self, conv: nn.Conv2d) -> Any:
        """A unit started from a convolution."""
        return self.cls.from_conv(conv, **self.options)

    def refuses(self, conv: nn.Conv2d) -> str | None:
        """Why the unit cannot stand there, or None."""
        return self.cls.supports(conv, **self.options)

    def warm_start(self, conv: nn.Conv2d) -> str:
        """What `from_conv` promises here: the unit's own answer for this geometry, else the registry's."""
        return self.cls.warm_start_for(conv, **self.options) or self.spec.warm_start

    def homes(self) -> list[dict[str, Any]]:
        """The geometries the unit must support, read off its `default_where`."""
        where = self.spec.default_where
        if self.block:
            return _block_homes(self.spec)
        asked = {word for word in re.split(r"[\s&,()]+", where) if word}
        kernels = [tuple(map(int, word.split("x"))) for word in asked if re.fullmatch(r"\d+x\d+", word)]
        kernel = (1, 1) if "pointwise" in asked else kernels[0] if kernels and (3, 3) not in kernels else (3, 3)
        strides = [2] if "strided" in asked else [1] if "!strided" in asked else [1, 2]
        one = {
            "in_channels": 4,
            "out_channels": 4 if "depthwise" in asked else 6,
            "kernel_size": kernel,
            "padding": (kernel[0] // 2, kernel[1] // 2),
            "groups": 4 if "depthwise" in asked else 2 if "grouped" in asked else 1,
        }
        return [one | {"stride": stride} for stride in strides]

    def geometries(self) -> list[dict[str, Any]]:
        """Typical geometries the unit supports, its homes first."""
        if self.block:
            return self.homes() + [g for g in _BLOCKS if self.cls.supports(Place(**g), **self.options) is None]
        k3: dict[str, Any] = {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "padding": 1}
        others: list[dict[str, Any]] = [
            {"in_channels": 3, "out_channels": 4, "kernel_size": 5, "padding": 2, "bias": False},
            k3 | {"groups": 2, "dilation": 2, "padding": "same"},
            k3 | {"out_channels": 4, "groups": 4},
            k3 | {"in_channels": 6, "padding_mode": "reflect"},
            {"in_channels": 4, "out_channels": 6, "kernel_size": 1},
        ]
        return self.homes() + [g for g in others if self.refuses(nn.Conv2d(**g)) is None]

    def home(self, **place: Any) -> Any:
        """The unit as constructed in its first home."""
        return self.build(self.homes()[0], **place)


_BLOCKS: tuple[dict[str, Any], ...] = (
    {"in_channels": 16, "out_channels": 32, "stride": 1},
    {"in_channels": 32, "out_channels": 16, "stride": 1},
    {"in_channels": 16, "out_channels": 24, "stride": 2},
)


def _block_homes(spec: UnitSpec) -> list[dict[str, Any]]:
    """Places of a CIFAR ResNet, of the kinds that the unit replaces by default."""
    words = set(re.split(r"[\s&,!]+", spec.default_where))
    if spec.replaces == "stem":
        return [{"in_channels": 3, "out_channels": 64, "stride": 4}]
    depth = {"depth": 3} if spec.replaces == "stage" else {}
    same = {"in_channels": 16, "out_channels": 16, "stride": 1} | depth
    strided = {"in_channels": 16, "out_channels": 32, "stride": 2} | depth
    if "same" in words:
        return [same]
    return [strided] if "strided" in words else [same, strided]


def cases_of(*names: str) -> list[Case]:
    """The cases of these units, or of all registered ones if none is named: the defaults and every variant.

    Raises:
        UsageError: no such unit. The message gives the nearest names.
    """
    return [case for name in names or list_units() for case in _cases_of(get_unit(name))]


def _cases_of(spec: UnitSpec) -> Iterator[Case]:
    yield Case(spec, {})
    yield from (Case(spec, options) for options in spec.variants if options)
