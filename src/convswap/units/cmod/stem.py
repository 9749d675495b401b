"""The complex-wavelet stem: oriented wavelet channels whose modulus replaces the max-pool (arXiv:2212.00394)."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...errors import UsageError, check_choice, check_whole
from ..contract.block import BlockUnit, Place
from ..contract.geometry import Geometry, plain_conv
from ..contract.precision import double_copy
from ..contract.registry import register_unit
from ..support.folding import batch_norm_affine, fold_conv_norm
from .parts import (
    ARCHES,
    Arch,
    BlurPool2d,
    ChannelBias,
    GaborBatchNorm2d,
    WaveletConv2d,
    WaveletMaps,
    modulus,
)

POOLING = ("modulus", "modulus_blur", "max", "blur")
_STRIDES = {4: "resnet", 8: "alexnet"}


class _Stem(nn.Module):
    """The shared part of a stem and its inference form: free channels, then wavelet channels."""

    arch: str
    pooling: str
    free: nn.Conv2d
    wavelets: WaveletMaps | WaveletConv2d | None
    norm: nn.Module
    after: nn.Module
    pool: nn.Module

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W'), H' and W' those of the host's stem."""
        height, width = x_NCHW.shape[-2:]
        maps = self.free(x_NCHW)
        if self.wavelets is None:
            return cast(Tensor, self.pool(self.norm(maps).relu()))
        if not self.pooling.startswith("modulus"):
            real = self.wavelets(x_NCHW, (maps.shape[-2], maps.shape[-1]))
            return cast(Tensor, self.pool(self.norm(torch.cat([maps, real], 1)).relu()))
        low = self.pool(self.norm(maps).relu())
        arch = ARCHES[self.arch]
        z = self.wavelets(x_NCHW, (arch.pooled(height), arch.pooled(width)))
        return torch.cat([low, self.after(modulus(z)).relu()], 1)


@register_unit(
    "cmod",
    replaces="stem",
    paper="arXiv:2212.00394",
    year=2022,
    summary="a stem with oriented complex wavelets, whose modulus takes the place of the max-pool",
    warm_start="none",
    fusion="cheaper",
    default_where="all",
    placement="paper",
    train_eval="batch_norm",
    variants=(
        {"pooling": "modulus_blur", "packets": "full"},
        {"pooling": "max"},
        {"pooling": "blur"},
        {"pooling": "blur", "wavelet_channels": 0},
    ),
)
class ModulusStem(_Stem, BlockUnit):
    """The first convolution, BatchNorm, ReLU and max-pool of a ResNet or an AlexNet, some channels made of wavelets.

        free channels:     low_o  = maxpool(relu(BN(conv(x))))_o                as in the host
        wavelet channels:  high_o = relu(GBN(|sum_k w_ok (L(x) * psi_k)(2 m n)|))

    The output is both one after the other, with the host's height and width. m is the stride of the host's convolution
    (ResNet 2, AlexNet 4). L(x) is a learned mix of the input channels, the psi_k are constant complex wavelet packets
    (`DtCwpt2d`), and w are real. A max-pool of a real oriented band-pass filter's response jumps when the image moves
    by a pixel. The modulus of the complex filter looks similar, but hardly jumps. `GBN` is `GaborBatchNorm2d`; AlexNet
    has a bias there.

    Only the packets and positions that are read are computed, as one convolution down the columns, one along the rows
    and one 1x1 convolution. For ResNet this takes 15 million multiplications at 224 px; as many channels of the 7x7
    convolution take 44 million.

    Odd sizes: the authors cut the last row or column if both halves differ in size. Here it is computed, with zeros
    around the image. A grey image (`in_channels` other than 3) starts with the mean of its channels as luminance.

    `fuse()` folds the BatchNorms, in float64, and keeps the separable wavelets, the cheapest form.
    `to_convolutions()` makes the wavelet channels one plain strided convolution, 30x30 (ResNet) or 66x66 (AlexNet).

    Args:
        arch: `"resnet"` (stride 4: convolution 7x7 s2, pool 3x3 s2) or `"alexnet"` (stride 8: 11x11 s4, pool 3x3 s2).
            None: by the stride.
        pooling: `"modulus"` (the paper's CMod); `"max"`, its twin: the real parts at stride m, max-pooled like the
            free channels; `"blur"`: this twin with blur-pooling (arXiv:1904.11486) of all channels; `"modulus_blur"`:
            the modulus, and blur-pooling of the free channels. With blurring AlexNet's convolution has stride 2.
        wavelet_channels: how many outputs are wavelets, a multiple of the paper's 24 (ResNet) or 32 (AlexNet), fewer
            than `out_channels`. None: the paper's number for each 64 outputs, rounded down, at least once. 0, not
            with the modulus: no wavelets, the host's stem or Zhang's blurred one.
        packets: ResNet: `"excluded"` (the paper's best: 16 packets, without the edges of the spectrum) or `"full"`
            (30 packets in two groups). AlexNet: `"full"` (94 packets). None: the first of these.

    Raises:
        ValueError: an option is not allowed, or the channels or the stride do not fit.
    """

    def setup(
        self,
        *,
        arch: str | None = None,
        pooling: str = "modulus",
        wavelet_channels: int | None = None,
        packets: str | None = None,
    ) -> None:
        """Check the options and build the unit; see the class."""
        reason = _refused(self.out_channels, self.stride, arch, pooling, wavelet_channels, packets)
        if reason is not None:
            raise UsageError(reason)
        self.arch = _STRIDES[self.stride]
        a = ARCHES[self.arch]
        self.pooling = pooling
        self.packets = next(iter(a.selections)) if packets is None else packets
        count = _wavelet_channels(a, self.out_channels) if wavelet_channels is None else wavelet_channels
        self.wavelet_channels, lone = count, self.out_channels - count
        blurred, complex_maps = pooling in ("blur", "modulus_blur"), pooling.startswith("modulus")
        place = self.place
        step = 2 if blurred else a.stride
        self.free = nn.Conv2d(self.in_channels, lone, a.kernel, step, a.padding, bias=not a.batch_norm, **place)
        normed = lone if complex_maps else self.out_channels
        self.norm = nn.BatchNorm2d(normed, **place) if a.batch_norm else nn.Identity()
        self.wavelets = None
        if count:
            self.wavelets = WaveletMaps(
                self.in_channels,
                a.depth,
                a.selections[self.packets].times(count // a.wavelet_channels),
                stride=2 * a.stride if complex_maps else step,
                start=a.start,
                real=not complex_maps,
                bias=not a.batch_norm and not complex_maps,
                **place,
            )
            self.wavelets.reset_parameters(
                a.luminance if self.in_channels == 3 else (1 / self.in_channels,) * self.in_channels
            )
        self.after: nn.Module = nn.Identity()
        if complex_maps:
            zero = torch.zeros(count, **place)
            self.after = GaborBatchNorm2d(count, **place) if a.batch_norm else ChannelBias(zero)
        self.pool = _pool(a, blurred)

    @property
    def weight(self) -> Tensor:
        """The free convolution's weight (out - wavelets, in, k, k). It shows the module's device and precision."""
        return self.free.weight

    @classmethod
    def supports(cls, place: Place, **options: Any) -> str | None:
        """Why the stem cannot stand there (stride, too few channels), or None."""
        given = {name: options.get(name) for name in ("arch", "wavelet_channels", "packets")}
        return _refused(place.out_channels, place.stride, pooling=options.get("pooling", "modulus"), **given)

    @torch.no_grad()
    def fuse(self) -> FusedModulusStem:
        """An independent stem with the BatchNorms folded; equal in evaluation.

        Raises:
            FusionError: a BatchNorm keeps no running statistics.
        """
        return FusedModulusStem(self)

    @torch.no_grad()
    def to_convolutions(self, kernel_size: int | None = None) -> FusedModulusStem:
        """`fuse()` with the wavelet channels as one strided convolution of (2 W or W, in, k, k).

        Exact for the whole kernels of 30x30 or 66x66 (None). A smaller `kernel_size` keeps the middle of each kernel;
        `.wavelets.cut` says how much that leaves out, see `WaveletConv2d`. This form has several times the
        multiplications of `fuse()`, and is for tools that know only convolutions.

        Raises:
            ValueError: `kernel_size` is not a whole number from 1 to the whole side, or there are no wavelets.
            FusionError: a BatchNorm keeps no running statistics.
        """
        if self.wavelets is None:
            raise UsageError("to_convolutions: wavelet_channels=0, so there is nothing to make a convolution of")
        whole = cast(WaveletMaps, self.wavelets).taps
        if kernel_size is not None:
            check_whole("kernel_size", kernel_size, 1, whole)
        return FusedModulusStem(self, dense=True, kernel_size=kernel_size)


class FusedModulusStem(_Stem):
    """The inference form of `ModulusStem`: BatchNorms are folded into the convolutions and their biases.

    The scale of the Gabor batch norm is not negative, so it moves through the modulus into the mixing weights.
    """

    def __init__(self, stem: ModulusStem, *, dense: bool = False, kernel_size: int | None = None) -> None:
        super().__init__()
        exact = double_copy(stem)
        self.arch, self.pooling, self.pool = stem.arch, stem.pooling, copy.deepcopy(stem.pool)
        self.in_channels, self.out_channels, self.stride = stem.in_channels, stem.out_channels, stem.stride
        maps, self.norm, self.after = cast(WaveletMaps | None, exact.wavelets), nn.Identity(), nn.Identity()
        self.free, after = exact.free, exact.after
        if isinstance(exact.norm, nn.BatchNorm2d):
            self.free = _folded(exact.free, exact.norm, maps)
        if isinstance(after, GaborBatchNorm2d) and maps is not None:
            _scale(maps, after.scale(after.running_energy))
            after = ChannelBias(after.bias)
        self.after = after
        self.wavelets = WaveletConv2d(maps, kernel_size) if dense and maps is not None else maps
        trained = any(p.requires_grad for p in stem.parameters())
        like = stem.free.weight
        self.to(like.dtype).requires_grad_(trained).train(stem.training)
        if like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous():
            self.to(memory_format=torch.channels_last)

    def extra_repr(self) -> str:
        """The place."""
        return f"{self.in_channels}, {self.out_channels}, stride={self.stride}, pooling={self.pooling!r}"


def _folded(free: nn.Conv2d, norm: nn.BatchNorm2d, maps: WaveletMaps | None) -> nn.Conv2d:
    """The convolution with its channels of the norm folded in. If the norm has more, the rest go to the wavelets."""
    channels = free.out_channels
    if maps is None or norm.num_features == channels:
        return fold_conv_norm(free, norm)
    scale, shift = batch_norm_affine(norm)
    _scale(maps, scale[channels:])
    old = 0 if maps.bias is None else maps.bias * scale[channels:]
    maps.bias = nn.Parameter(shift[channels:] + old)
    weight = free.weight * scale[:channels, None, None, None]
    return plain_conv(Geometry.of(free), weight, shift[:channels], like=free.weight)


def _scale(maps: WaveletMaps, scale: Tensor) -> None:
    """Multiply the outputs."""
    first = 0
    for weight in maps.mix:
        weight.mul_(scale[first : first + len(weight), None])
        first += len(weight)


def _pool(arch: Arch, blurred: bool) -> nn.Module:
    """The host's max-pool, or its blur-pooled form."""
    if not blurred:
        return nn.MaxPool2d(3, 2, arch.pool_padding)
    pool = [nn.MaxPool2d(3, 1, arch.pool_padding), BlurPool2d()]
    return nn.Sequential(*pool) if arch.stride == 2 else nn.Sequential(BlurPool2d(), *pool)


def _wavelet_channels(arch: Arch, out_channels: int) -> int:
    """The paper's share, in whole multiples of its number."""
    return arch.wavelet_channels * max(1, out_channels // 64)


def _refused(
    out_channels: int,
    stride: int,
    arch: str | None,
    pooling: str,
    wavelet_channels: int | None,
    packets: str | None,
) -> str | None:
    """Why no stem can be built with these options, or None.

    Raises:
        ValueError: an option has a value that is allowed nowhere.
    """
    check_choice("arch", arch, (None, *ARCHES))
    check_choice("pooling", pooling, POOLING)
    check_choice("packets", packets, (None, "excluded", "full"))
    if wavelet_channels is not None:
        check_whole("wavelet_channels", wavelet_channels, 0, hint=", or None")
    name = _STRIDES.get(stride)
    if name is None or arch not in (None, name):
        wanted = {a: s for s, a in _STRIDES.items()}
        allowed = "4 (ResNet) or 8 (AlexNet)" if arch is None else f"{wanted[arch]} with arch={arch!r}"
        return f"stride={stride} is not allowed; a modulus stem shrinks by {allowed}"
    a = ARCHES[name]
    if packets is not None and packets not in a.selections:
        return f"packets={packets!r} is not allowed with arch={name!r}; choose {' or '.join(map(repr, a.selections))}"
    count = _wavelet_channels(a, out_channels) if wavelet_channels is None else wavelet_channels
    least = 0 if pooling in ("max", "blur") else a.wavelet_channels
    if count % a.wavelet_channels or not least <= count < out_channels:
        return (
            f"wavelet_channels={count} of out_channels={out_channels} is not allowed; arch={name!r} with "
            f"pooling={pooling!r} takes multiples of {a.wavelet_channels} from {least}, fewer than all channels"
        )
    return None
