"""Neural implicit frequency filters: convolution by a spectrum that a coordinate MLP gives (arXiv:2307.10001)."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...errors import UsageError, check_choice
from ..contract.feature import FeatureUnit
from ..contract.geometry import Geometry
from ..contract.precision import compute_dtype, double_copy
from ..contract.registry import register_unit
from .frequency import FrequencyConvolution, combined_kernel
from .spatial import SpatialForm, spatial_form
from .spectrum import HIDDEN, Size, Spectrum, check_size


@register_unit(
    "niff",
    paper="arXiv:2307.10001",
    year=2023,
    summary="a filter as large as the map, multiplied in the frequency domain; its spectrum comes from a tiny MLP",
    warm_start="none",
    fusion="cheaper",
    default_where="spatial & !first & !strided",
    placement="paper",
    variants=(
        {"form": "full"},
        {"boundary": "zero"},
        {"form": "full", "boundary": "zero", "mlp": "small"},
        {"mlp": "big", "init": "paper"},
        {"reference_size": 8},
    ),
)
class NIFFConv2d(FrequencyConvolution, FeatureUnit):
    """`y = F^-1(R F(x)) + b`, the response R (maps, H, W) given by an MLP of the frequency: filters of the map's size.

    x is (N, in, H, W), y (N, out, H, W). With u and v the whole frequencies of columns and rows,
    `R(u, v) = mlp_real(u, v) + i mlp_imag(u, v)`; see `Spectrum`. The form follows from the convolution replaced:

    - depthwise: one response a channel;
    - dense, `form="split"` (the paper's default): a response for each input channel, then a 1x1 convolution M.
      The paper multiplies M in the frequency domain. Here M is a plain `nn.Conv2d`, which is the same function;
    - dense, `form="full"`: a response for each pair of channels, `Y_o = sum_i R_io X_i`. It takes
      in * out * H * (W / 2 + 1) complex numbers.

    The paper takes the real part at the end, which keeps only the Hermitian half of R. Real FFTs therefore do half the
    work, and y is the convolution with the real kernel `effective_kernel(size)`. Its border is **circular**, whatever
    the host's padding mode. The host's kernel size and dilation have no meaning here and are only remembered.
    `boundary="zero"` is ours: the same kernel, its displacements from -(N // 2) on, with zeros around the map.

    Maps may have any H and W, in training and later. Coordinates are whole frequencies of the map (the paper). On a
    map of another size than in training, u cycles per map are other cycles per pixel, so the kernel changes (on a
    larger map the MLP extrapolates). With `reference_size` (ours) coordinates are scaled to a map of that size: the
    same response per pixel, sampled at other points. The remaining error is the kernel's tail beyond the smaller map.
    `resampling_error` measures both.

    Every training pass evaluates the spectrum once, in at least float32, also under autocast. Without gradients the
    spectrum is stored by size, and dropped when a parameter changes (see `SpectrumStore`). Compiled and exported
    programs evaluate it in every call, so fuse first, or export `fuse(size)`.

    `fuse()` gives a `FusedNIFF`, equal at any size. It is frozen, so its spectra stay stored, and a BatchNorm behind it
    folds in. `fuse(size)` gives ordinary convolutions, equal at that size. `fuse(size, crop=k)` keeps k x k of the
    kernel.

    A trained convolution's function is not kept (`warm_start="none"`), because smooth responses of rank 4 cannot hold
    its kernels. Only its scale and bias are kept, also from scratch: each filter, or row of M, starts with the energy
    of the host's kernels, so the host's scheme of initialisation holds. With `init="paper"` nothing is scaled.

    Args:
        form: `"split"` or `"full"`, for dense convolutions.
        mlp: hidden widths `"small"` (8, 4), `"big"` (16, 128, 32: the paper's for ConvNeXt) or `"tiny"` (8,). None:
            small, and tiny for the full form, as in the paper.
        boundary: `"circular"` (the paper) or `"zero"`.
        reference_size: None (the paper), a number, or (H, W); see above.
        imag_bias: keep the official bias of the imaginary MLP's last layer, which has no effect and no gradient.
        init: `"scaled"` (ours) or `"paper"`; see `Spectrum.reset_parameters`.

    The other arguments are those of `nn.Conv2d`.

    Raises:
        ValueError: an option is not allowed, or `supports` gives a reason against the geometry.
    """

    def setup(
        self,
        *,
        form: str = "split",
        mlp: str | None = None,
        boundary: str = "circular",
        reference_size: int | Size | None = None,
        imag_bias: bool = False,
        init: str = "scaled",
    ) -> None:
        """Check the options and build the unit; see the class."""
        _check_options(form, mlp, boundary, reference_size, imag_bias, init)
        reason = _refusal(self)
        if reason is not None:
            raise UsageError(f"{type(self).__name__}: {reason}")
        place = self.place
        self.form = form if self.groups == 1 else "depthwise"
        self.mlp, self.boundary, self.init = mlp or ("tiny" if self.form == "full" else "small"), boundary, init
        self.spectrum = Spectrum(
            self.in_channels * self.out_channels if self.form == "full" else self.in_channels,
            self.mlp,
            reference_size=(reference_size, reference_size) if isinstance(reference_size, int) else reference_size,
            imag_bias=imag_bias,
            init=init,
            **place,
        )
        split = self.form == "split"
        self.pointwise = nn.Conv2d(self.in_channels, self.out_channels, 1, bias=False, **place) if split else None
        self.bias = nn.Parameter(torch.zeros(self.out_channels, **place)) if self.geometry.bias else None
        if init == "scaled":
            with torch.no_grad():  # a convolution's default start: energy 1/3 per output
                self._set_energy(
                    self.spectrum.real.last.weight.new_full((self.out_channels, self.in_channels // self.groups), 1 / 3)
                )

    @property
    def weight(self) -> Tensor:
        """The 1x1 convolution's weight (out, in, 1, 1), or without one the real MLP's last weight (maps, width)."""
        return self.spectrum.real.last.weight if self.pointwise is None else self.pointwise.weight

    @classmethod
    def supports(cls, conv: nn.Conv2d, **options: Any) -> str | None:
        """Why the unit cannot stand there: a stride, another output size, 1x1, or groups that are not depthwise."""
        return _refusal(conv)

    def copy_initial(self, conv: nn.Conv2d) -> None:
        """Take the host's bias and, unless `init="paper"`, the energy of its kernels (runs under `no_grad`)."""
        if conv.bias is not None and self.bias is not None:
            self.bias.copy_(conv.bias)
        if self.init == "scaled":
            self._set_energy(conv.weight.to(compute_dtype(conv.weight.dtype)).square().sum((2, 3)))

    def _set_energy(self, energy: Tensor) -> None:
        """Scale the filters to the energies of kernels (out, in/groups), and each row of M to its output's sum."""
        if self.pointwise is None:
            self.spectrum.set_energy(energy.t().flatten() if self.form == "full" else energy.flatten())
            return
        self.spectrum.set_energy(1.0)
        weight = self.pointwise.weight
        present = weight.to(energy.dtype).square().sum((1, 2, 3))
        factor = torch.where(present > 0, energy.sum(1) / present, 0.0).sqrt()
        weight.mul_(factor.to(weight)[:, None, None, None])

    def effective_kernel(self, size: int | Size, *, centred: bool = False) -> Tensor:
        """The kernel for a map of that size, (out, in/groups, H, W), in at least float32, differentiable.

        Index (0, 0) is displacement 0, and the others count modulo H and W; `centred` moves it to (H // 2, W // 2). It
        is the kernel of a convolution: PyTorch's correlation needs it flipped.
        """
        kernel = combined_kernel(self, check_size(size), compute_dtype(self.weight.dtype))
        shift = (kernel.shape[-2] // 2, kernel.shape[-1] // 2)
        return torch.roll(kernel, shift, (-2, -1)) if centred else kernel

    def spatial(self, size: int | Size, crop: int | None = None) -> SpatialForm:
        """Ordinary convolutions for maps of one size, whole or cropped, and the part of the kernels they keep.

        Raises:
            ValueError: a size that is not a positive whole number, or an even `crop`.
        """
        with torch.no_grad():
            return spatial_form(double_copy(self), check_size(size), crop, like=self.weight)

    def fuse(self, size: int | Size | None = None, *, crop: int | None = None) -> nn.Module:
        """The inference form, see the class: for any size, for one size, or cropped.

        Raises:
            ValueError: as `spatial`; a `crop` without a size.
        """
        if size is not None:
            return self.spatial(size, crop).module
        if crop is not None:
            raise UsageError(f"crop={crop!r} needs size=, the size of the maps whose kernels are cropped")
        return FusedNIFF(self)


class FusedNIFF(FrequencyConvolution, nn.Module):
    """The inference form of `NIFFConv2d` for any size: frozen, so its spectra are evaluated once per size."""

    def __init__(self, unit: NIFFConv2d) -> None:
        super().__init__()
        for name in Geometry.__dataclass_fields__:
            if name != "bias":
                setattr(self, name, getattr(unit, name))
        self.form, self.boundary = unit.form, unit.boundary
        self.spectrum, self.pointwise = copy.deepcopy(unit.spectrum), copy.deepcopy(unit.pointwise)
        weight = unit.weight
        self.bias = nn.Parameter(weight.new_zeros(unit.out_channels) if unit.bias is None else unit.bias.clone())
        self.requires_grad_(False)
        self.train(unit.training)

    @torch.no_grad()
    def fold_affine(self, scale: Tensor, shift: Tensor) -> None:
        """Absorb a following per-channel `y -> scale y + shift`, (out,) each, in place."""
        assert self.bias is not None
        if self.pointwise is not None:
            self.pointwise.weight.mul_(scale.to(self.bias)[:, None, None, None])
        else:
            self.spectrum.scale_maps(scale.repeat(self.in_channels) if self.form == "full" else scale)
        self.bias.mul_(scale.to(self.bias)).add_(shift.to(self.bias))

    def extra_repr(self) -> str:
        """The geometry in one line, and the form."""
        return f"{Geometry.of(self).describe()}, form={self.form!r}, boundary={self.boundary!r}"


def _check_options(
    form: object, mlp: object, boundary: object, reference_size: object, imag_bias: object, init: object
) -> None:
    check_choice("form", form, ("split", "full"))
    check_choice("mlp", mlp, (None, *HIDDEN))
    check_choice("boundary", boundary, ("circular", "zero"))
    check_choice("imag_bias", imag_bias, (True, False))
    check_choice("init", init, ("scaled", "paper"))
    if reference_size is not None:
        check_size(reference_size, "reference_size")


def _refusal(host: FeatureUnit | nn.Conv2d) -> str | None:
    kernel, dilation = host.kernel_size, host.dilation
    if max(kernel) == 1:
        return "a 1x1 convolution is the same function in the frequency domain at twice the cost, so it stays as it is"
    if max(host.stride) > 1:
        return (
            f"stride {tuple(host.stride)}: the frequency domain keeps the size of the map (the paper keeps these too)"
        )
    if host.groups > 1 and not host.groups == host.in_channels == host.out_channels:
        return (
            f"{host.groups} groups of {host.in_channels} -> {host.out_channels} channels; there is a depthwise and a "
            "dense form, none between"
        )
    if host.padding != "same":
        padding = (0, 0) if host.padding == "valid" else cast(tuple[int, ...], host.padding)
        if any(2 * p != d * (k - 1) for p, d, k in zip(padding, dilation, kernel, strict=True)):
            sides = f"{kernel[0]}x{kernel[1]}"
            return f"padding {host.padding} of a {sides} kernel changes the map's size; a frequency filter keeps it"
    return None
