"""Frequency filters as kernels in space: exact and cropped convolutions, a change of size, official weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...errors import UsageError, check_whole
from ..contract.geometry import Geometry, plain_conv
from .frequency import FrequencyConvolution, stacked_filters
from .spectrum import Size, check_size


@dataclass(frozen=True)
class SpatialForm:
    """Ordinary convolutions that replace a frequency filter on maps of one size.

    Attributes:
        module: an `nn.Conv2d`, or for the split form a depthwise one and a 1x1 one in a row.
        size: the size of the maps for which the kernels are taken.
        energy: for each filter (in PyTorch's order of the spatial weight's first two dimensions, flattened), the kept
            part of its sum of squares. On white noise the rest is the squared error of the output.
        mass: the kept part of its sum of magnitudes.
    """

    module: nn.Module
    size: Size
    energy: Tensor
    mass: Tensor

    def __str__(self) -> str:
        return (
            f"kernels of {self.size[0]}x{self.size[1]} maps: energy kept {self.energy.mean():.4f} "
            f"(least {self.energy.min():.4f}), magnitude kept {self.mass.mean():.4f}"
        )


def spatial_form(exact: FrequencyConvolution, size: Size, crop: int | None, like: Tensor) -> SpatialForm:
    """See `NIFFConv2d.spatial`; `exact` is a float64 copy of the unit, `like` the unit's weight."""
    height, width = size
    kernels = torch.roll(stacked_filters(exact, size, torch.float64), (height // 2, width // 2), (-2, -1))
    energy, mass = kernels.square().sum((2, 3)), kernels.abs().sum((2, 3))
    if crop is not None:
        check_whole("crop", crop, odd=True, hint=": the kernel has a centre")
        rows, columns = (slice(max(n // 2 - crop // 2, 0), n // 2 + crop // 2 + 1) for n in size)
        kernels = kernels[:, :, rows, columns]
        if kernels.shape[-2:] != (crop, crop):
            raise UsageError(f"crop={crop!r} is not allowed; the {height}x{width} kernel does not reach that far")
    kept = (kernels.square().sum((2, 3)) / energy, kernels.abs().sum((2, 3)) / mass)
    geometry = Geometry(
        exact.in_channels,
        exact.out_channels if exact.pointwise is None else exact.in_channels,
        (1, 1),  # read off the weight
        padding="same",
        groups=1 if exact.form == "full" else exact.in_channels,
        padding_mode="circular" if exact.boundary == "circular" else "zeros",
    )
    # PyTorch correlates: flipped, displacement d reads pixel n - d. "same" pads (k - 1) // 2 before, k // 2 after,
    # which fits the flipped kernel's centre.
    place: dict[str, Any] = {"like": like, "train": exact.training}
    bias = exact.bias if exact.pointwise is None else None
    module: nn.Module = plain_conv(geometry, kernels.flip((2, 3)), bias, **place)
    if exact.pointwise is not None:
        one = Geometry(exact.in_channels, exact.out_channels, (1, 1))
        module = nn.Sequential(module, plain_conv(one, exact.pointwise.weight, exact.bias, **place))
    return SpatialForm(module.train(exact.training), size, *(part.flatten() for part in kept))


def resampling_error(unit: FrequencyConvolution, trained: int | Size, size: int | Size) -> float:
    """How much the kernels change from one map size to another: |k' - k| / |k|, zeros around the smaller.

    The norm is over all kernels together. 0 means that a map of the other size is filtered with the same kernels.

    Raises:
        ValueError: a size that is neither a positive whole number nor a pair of them.
    """
    pair = check_size(trained, "trained"), check_size(size)
    with torch.no_grad():
        full = tuple(max(sides) for sides in zip(*pair, strict=True))
        old, new = (_centred_in(unit.spectrum.kernels(s, torch.float64), full) for s in pair)
        return float((new - old).norm() / old.norm())


def _centred_in(kernels: Tensor, size: tuple[int, ...]) -> Tensor:
    height, width = kernels.shape[-2:]
    centred = torch.roll(kernels, (height // 2, width // 2), (-2, -1))
    top, left = size[0] // 2 - height // 2, size[1] // 2 - width // 2
    whole = kernels.new_zeros(len(kernels), *size)
    whole[:, top : top + height, left : left + width] = centred
    return whole


@torch.no_grad()
def load_official_niff(
    unit: FrequencyConvolution, state_dict: Mapping[str, Tensor], *, bias: Tensor | None = None
) -> None:
    """Load the weights of one convolution of the authors' code (GeJulia/NIFF) into a unit of the same form.

    Their FFT shifts also roll the channels: filter c is made by output (c + C // 2) mod C of their MLP, and rows and
    columns of their 1x1 matrix are rolled likewise. This loader undoes that. Keys are `mlp_real.layer_mplJ.weight`
    and so on, for the split form with `0.` in front and the matrix as `1.mlp.weight`.

    Args:
        unit: with the MLP widths of the weights.
        state_dict: of the depthwise, split or full module.
        bias: the unit's bias; the official modules have none, so it is set to 0 where this is None.

    Raises:
        ValueError: a key is missing, or a shape differs.
    """
    rest = {key.removeprefix("0."): value for key, value in state_dict.items()}
    for name, mlp in (("mlp_real", unit.spectrum.real), ("mlp_imag", unit.spectrum.imag)):
        for index, layer in enumerate(mlp.layers, start=1):
            linear = cast(nn.Linear, layer)
            for kind, target in (("weight", linear.weight), ("bias", linear.bias)):
                if target is not None:
                    value = _taken(rest, f"{name}.layer_mpl{index}.{kind}").flatten(1 if kind == "weight" else 0)
                    _copy(target, _unrolled(unit, value) if linear is mlp.last else value)
    if unit.pointwise is not None:
        matrix = _taken(rest, "1.mlp.weight")
        shifts = (-(unit.out_channels // 2), -(unit.in_channels // 2))
        _copy(unit.pointwise.weight, torch.roll(matrix, shifts, (0, 1))[:, :, None, None])
    if unit.bias is not None:
        unit.bias.zero_()
        if bias is not None:
            _copy(unit.bias, bias)


def _unrolled(unit: FrequencyConvolution, value: Tensor) -> Tensor:
    """Rows of a last layer in the true order of the channels."""
    if unit.form != "full":
        return torch.roll(value, -(unit.in_channels // 2), 0)
    pairs = value.unflatten(0, (unit.in_channels, unit.out_channels))
    return torch.roll(pairs, (-(unit.in_channels // 2), -(unit.out_channels // 2)), (0, 1)).flatten(0, 1)


def _taken(state_dict: Mapping[str, Tensor], key: str) -> Tensor:
    if key not in state_dict:
        raise UsageError(f"state_dict has no {key!r}; it has {', '.join(sorted(state_dict)) or 'nothing'}")
    return state_dict[key]


def _copy(target: Tensor, value: Tensor) -> None:
    if target.shape != value.shape:
        raise UsageError(f"state_dict holds {tuple(value.shape)} where the unit has {tuple(target.shape)}")
    target.copy_(value)
