"""Neural implicit frequency filters: convolution by a spectrum that a coordinate MLP gives (arXiv:2307.10001)."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...errors import UsageError, check_choice
from ..contract.bases import FeatureUnit, Geometry, _double_copy, compute_dtype
from ..contract.registry import register_unit
from .spatial import SpatialForm, combined_kernel, spatial_form
from .spectrum import HIDDEN, Size, Spectrum, check_size, linear_size, linear_spectrum, real_fft

_MIX = "bihw,iohw->bohw"


class _FrequencyConvolution:
    """The forward pass that the unit and its inference form share."""

    form: str
    boundary: str
    in_channels: int
    out_channels: int
    spectrum: Spectrum
    pointwise: nn.Conv2d | None
    bias: nn.Parameter | None

    def forward(self, input: Tensor) -> Tensor:
        """(N, in, H, W), or (in, H, W), -> (N, out, H, W).

        Raises:
            ValueError: an input of another shape or, without autocast, another type than the weights.
        """
        if input.dim() not in (3, 4) or input.shape[-3] != self.in_channels:
            raise UsageError(_other_shape(input, self.in_channels))
        x = input if input.dim() == 4 else input.unsqueeze(0)
        device, wanted = x.device.type, self.spectrum.real.last.weight.dtype
        if device == "meta" or not torch.is_autocast_enabled(device):
            if x.dtype != wanted:
                raise UsageError(f"an input of {x.dtype} is not allowed; the weights are {wanted}")
            y = self._filter(x)
        else:
            wanted = torch.get_autocast_dtype(device)
            with torch.autocast(device, enabled=False):
                y = self._filter(x)
        if y.dtype != wanted:
            y = y.to(wanted)
        if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
            y = y.contiguous(memory_format=torch.channels_last)
        if self.pointwise is not None:
            y = self.pointwise(y)
        if self.bias is not None:
            y = y + self.bias.to(y.dtype)[:, None, None]
        return y if input.dim() == 4 else y.squeeze(0)

    def _filter(self, x: Tensor) -> Tensor:
        """The convolution with the spectrum, in at least float32."""
        # torch 2.14's FFT refuses empty batches; one map of zeros keeps shapes and gradients.
        if x.shape[0] == 0:  # len() would fix the batch size in an export
            return self._filter(torch.cat([x, x.new_zeros(1, *x.shape[1:])]))[:0]
        dtype = compute_dtype(self.spectrum.real.last.weight.dtype)
        x = x.to(dtype)
        height, width = size = cast(Size, tuple(x.shape[-2:]))
        if torch.jit.is_tracing():  # where sizes are tensors, and a graph is for one size
            height, width = size = int(height), int(width)
        if self.boundary == "circular":
            response = self._stored(x, lambda: self.spectrum(size, dtype))
            return torch.fft.irfft2(self._multiply(real_fft(x, size), response), s=size)
        padded = linear_size(size)
        response = self._stored(x, lambda: linear_spectrum(self.spectrum.kernels(size, dtype), padded))
        y = torch.fft.irfft2(self._multiply(real_fft(x, padded), response), s=padded)
        return y[..., height // 2 : height // 2 + height, width // 2 : width // 2 + width]

    def _stored(self, x: Tensor, evaluate: Any) -> Tensor:
        return self.spectrum.stored((*x.shape[-2:], self.boundary, x.dtype, x.device), x, evaluate)

    def _multiply(self, x: Tensor, response: Tensor) -> Tensor:
        if self.form != "full":
            return x * response
        maps = response.unflatten(0, (self.in_channels, self.out_channels))
        if torch.onnx.is_in_onnx_export():  # ONNX has no product of complex matrices
            real, imaginary = ((x.real, maps.real), (x.imag, maps.imag)), ((x.real, maps.imag), (x.imag, maps.real))
            (rr, ii), (ri, ir) = ([torch.einsum(_MIX, *pair) for pair in pairs] for pairs in (real, imaginary))
            return torch.complex(rr - ii, ri + ir)
        return torch.einsum(_MIX, x, maps)


@register_unit(
    "niff",
    kind="feature",
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
class NIFFConv2d(_FrequencyConvolution, FeatureUnit):
    """`y = F^-1(R F(x)) + b`, the response R (maps, H, W) given by an MLP of the frequency: filters of the map's size.

    x is (N, in, H, W), y (N, out, H, W). With u and v the whole frequencies of columns and rows,
    `R(u, v) = mlp_real(u, v) + i mlp_imag(u, v)`; see `Spectrum`. The form follows from the convolution replaced:

    - depthwise: one response a channel;
    - dense, `form="split"` (the paper's default): a response for each input channel, then a 1x1 convolution M.
      The paper multiplies M in the frequency domain; it is the same function, and here a plain `nn.Conv2d`;
    - dense, `form="full"`: a response for each pair of channels, `Y_o = sum_i R_io X_i`. It takes
      in * out * H * (W / 2 + 1) complex numbers.

    The real part that the paper takes at the end keeps of R its Hermitian half, so real FFTs do half the work, and y is
    the convolution with the real kernel `effective_kernel(size)`. Its border is **circular**, whatever padding mode the
    host had; the host's kernel size and dilation have no meaning here and are only remembered. `boundary="zero"` is
    ours: the same kernel, its displacements from -(N // 2) on, with zeros around the map.

    Any H and W, in training and later. Coordinates are whole frequencies of the map (the paper): on a map of another
    size than the one trained at, u cycles per map are other cycles per pixel, so the kernel becomes another one (on a
    larger map the MLP extrapolates). With `reference_size` (ours) coordinates are scaled to a map of that size: the
    same response per pixel, sampled at other points; what remains is the kernel's tail beyond the smaller map.
    `resampling_error` measures both.

    Every training pass evaluates the spectrum once, in at least float32, also under autocast. Without gradients it is
    stored by size, and dropped when a parameter changes (see `SpectrumStore`). Compiled and exported programs evaluate
    it in every call: fuse first, or export `fuse(size)`.

    `fuse()` gives a `FusedNIFF`: frozen, so its spectra stay stored, and a BatchNorm behind it folds in; equal at any
    size. `fuse(size)` gives ordinary convolutions, equal at that size; `fuse(size, crop=k)` keeps k x k of the kernel.

    A trained convolution's function is not kept (`warm_start="none"`): smooth responses of rank 4 cannot hold its
    kernels. Only its scale and bias are, also from scratch: each filter, or row of M, starts with the energy of the
    host's kernels, so the host's scheme of initialisation holds. With `init="paper"` nothing is scaled.

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

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        form: str = "split",
        mlp: str | None = None,
        boundary: str = "circular",
        reference_size: int | Size | None = None,
        imag_bias: bool = False,
        init: str = "scaled",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check_options(form, mlp, boundary, reference_size, imag_bias, init)
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        reason = _refusal(self)
        if reason is not None:
            raise UsageError(f"{type(self).__name__}: {reason}")
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        self.form = form if groups == 1 else "depthwise"
        self.mlp, self.boundary, self.init = mlp or ("tiny" if self.form == "full" else "small"), boundary, init
        self.spectrum = Spectrum(
            in_channels * out_channels if self.form == "full" else in_channels,
            self.mlp,
            reference_size=(reference_size, reference_size) if isinstance(reference_size, int) else reference_size,
            imag_bias=imag_bias,
            init=init,
            **place,
        )
        split = self.form == "split"
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False, **place) if split else None
        self.bias = nn.Parameter(torch.zeros(out_channels, **place)) if bias else None
        if init == "scaled":
            with torch.no_grad():  # a convolution's default start: energy 1/3 an output
                self._set_energy(self.spectrum.real.last.weight.new_full((out_channels, in_channels // groups), 1 / 3))

    @property
    def weight(self) -> Tensor:
        """The 1x1 convolution's weight (out, in, 1, 1); without one the real MLP's last weight (maps, width)."""
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
        """Scale the filters to the energies of kernels (out, in/groups), each row of M to its outputs' sum."""
        if self.pointwise is None:
            self.spectrum.set_energy(energy.t().flatten() if self.form == "full" else energy.flatten())
            return
        self.spectrum.set_energy(1.0)
        weight = self.pointwise.weight
        present = weight.to(energy.dtype).square().sum((1, 2, 3))
        factor = torch.where(present > 0, energy.sum(1) / present, 0.0).sqrt()
        weight.mul_(factor.to(weight)[:, None, None, None])

    def effective_kernel(self, size: int | Size, *, centred: bool = False) -> Tensor:
        """The kernel of a map of that size, (out, in/groups, H, W), in at least float32, differentiable.

        Index (0, 0) is no displacement, the others count modulo H and W; `centred` puts it at (H // 2, W // 2). It is
        the kernel of a convolution: PyTorch's correlation needs it flipped.
        """
        kernel = combined_kernel(self, check_size(size), compute_dtype(self.weight.dtype))
        shift = (kernel.shape[-2] // 2, kernel.shape[-1] // 2)
        return torch.roll(kernel, shift, (-2, -1)) if centred else kernel

    def spatial(self, size: int | Size, crop: int | None = None) -> SpatialForm:
        """Ordinary convolutions for maps of one size, whole or cropped, and how much of the kernels they keep.

        Raises:
            ValueError: a size that is not a positive whole number, or an even `crop`.
        """
        with torch.no_grad():
            return spatial_form(_double_copy(self), check_size(size), crop, like=self)

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

    def extra_repr(self) -> str:
        """The geometry, as `nn.Conv2d` prints it, and the options."""
        return (
            f"{super().extra_repr()}, bias={self.bias is not None}, form={self.form!r}, mlp={self.mlp!r}, "
            f"boundary={self.boundary!r}"
        )


class FusedNIFF(_FrequencyConvolution, nn.Module):
    """The inference form of `NIFFConv2d` for any size: frozen, so its spectra are evaluated once a size."""

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


def _other_shape(input: Tensor, channels: int) -> str:
    """What is wrong with an input whose product with a spectrum might broadcast, where a convolution refuses it."""
    return f"an input of shape {tuple(input.shape)} is not allowed; give (N, {channels}, H, W) or ({channels}, H, W)"


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
        return "a 1x1 convolution is the same function in the frequency domain at twice the cost; it stays as it is"
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
