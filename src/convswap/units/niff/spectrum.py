"""Frequency responses of real filters: a coordinate MLP on the half spectrum, and a store for evaluated ones."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UsageError, is_whole
from ...hooks import Hooks

HIDDEN = {"tiny": (8,), "small": (8, 4), "big": (16, 128, 32)}
NOMINAL = 32  # the size at which filters start with their given energy
_SIZES_KEPT = 8

Size = tuple[int, int]


def check_size(value: object, name: str = "size") -> Size:
    """The size of a map as a pair, from a pair or the side of a square.

    Raises:
        ValueError: neither is given, or a side is not a whole number of at least 1; the argument is called `name`.
    """
    pair = value if isinstance(value, tuple | list) else (value, value)
    if len(pair) != 2 or any(not is_whole(n) or n < 1 for n in pair):
        raise UsageError(f"{name}={value!r} is not allowed; give a whole number of at least 1 or a pair (H, W) of them")
    return pair[0], pair[1]


def axis_coordinates(count: int, reference: int | None, half: bool, like: Tensor) -> tuple[Tensor, Tensor]:
    """The MLP's inputs for the frequencies k = 0, 1, .. of one axis, and for their mirror images -k.

    They are in the order of the FFT; with `half` only k = 0..count // 2. Signed frequencies run from -(count // 2). The
    coordinate is that whole number, minus 1/2 if the size is odd (the official grid `arange(-count/2, count/2)`).
    With a `reference` size the frequencies are scaled by reference/count: the same cycles per pixel on another map.
    """
    k = torch.arange(count // 2 + 1 if half else count, device=like.device)
    base = count if reference is None else reference
    pair = []
    for frequency in (k, -k):
        signed = torch.remainder(frequency + count // 2, count) - count // 2
        scaled = signed.to(like.dtype) if reference is None else signed.to(like.dtype) * (reference / count)
        pair.append(scaled - 0.5 if base % 2 else scaled)
    return pair[0], pair[1]


class CoordinateMLP(nn.Module):
    """Linear layers with SiLU between them, from 2 coordinates to one value per map."""

    def __init__(self, hidden: tuple[int, ...], maps: int, *, last_bias: bool, **place: Any) -> None:
        super().__init__()
        widths = (2, *hidden, maps)
        self.layers = nn.ModuleList(
            nn.Linear(a, b, bias=last_bias or index < len(hidden), **place)
            for index, (a, b) in enumerate(pairwise(widths))
        )

    @property
    def last(self) -> nn.Linear:
        """The layer with one output per map."""
        return cast(nn.Linear, self.layers[-1])

    def features(self, grid: Tensor) -> Tensor:
        """The input of the last layer: (2, points) -> (width, points)."""
        for layer in list(self.layers)[:-1]:
            grid = F.silu(apply_linear(cast(nn.Linear, layer), grid))
        return grid


def apply_linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """A linear layer on columns, in the precision of x: (in, points) -> (out, points)."""
    weight = layer.weight.to(x.dtype)
    return weight @ x if layer.bias is None else torch.addmm(layer.bias.to(x.dtype)[:, None], weight, x)


class Spectrum(Hooks, nn.Module):
    """The frequency responses of `maps` real filters, for maps of any size.

    `R(u, v) = mlp_real(u, v) + i mlp_imag(u, v)`. A real output keeps only the Hermitian part of R,
    `R_h(k) = (R(k) + conj R(-k)) / 2`. The last layers are linear, so they see the mean (real part) and the half
    difference (imaginary part) of the features at k and -k: half of the points. A bias of the imaginary MLP's last
    layer cancels in that difference. It exists only with `imag_bias`, for the official number of parameters.

    Args:
        maps: number of filters.
        mlp: a key of `HIDDEN`.
        reference_size: see `axis_coordinates`; None: coordinates are whole frequencies.
        imag_bias: keep the bias without effect.
        init: `"scaled"` or `"paper"`, see `reset_parameters`.
    """

    keeps_results = True

    def __init__(
        self,
        maps: int,
        mlp: str,
        *,
        reference_size: Size | None = None,
        imag_bias: bool = False,
        init: str = "scaled",
        **place: Any,
    ) -> None:
        super().__init__()
        self.maps, self.reference_size, self.init = maps, reference_size, init
        self.real = CoordinateMLP(HIDDEN[mlp], maps, last_bias=True, **place)
        self.imag = CoordinateMLP(HIDDEN[mlp], maps, last_bias=imag_bias, **place)
        self.store = SpectrumStore()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """PyTorch's defaults for linear layers (`"paper"`, as ConvNeXt's copy has them), or those, scaled.

        The defaults read frequencies up to half of the map's size unscaled. `"scaled"`, ours, divides the first
        weights by a quarter of the nominal size, which makes the responses smooth and the filters local, and then
        gives every filter an energy of 1.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
        if self.init == "scaled":
            with torch.no_grad():
                for mlp in (self.real, self.imag):
                    cast(nn.Linear, mlp.layers[0]).weight.div_(NOMINAL / 4)
                self.set_energy(1.0)

    def set_energy(self, energy: Tensor | float) -> None:
        """Scale the filters to these sums of squares, (maps,), at the reference or nominal size (under `no_grad`)."""
        size = self.reference_size or (NOMINAL, NOMINAL)
        present = self.kernels(size, torch.float64).square().sum((1, 2))
        target = torch.as_tensor(energy, dtype=torch.float64, device=present.device)
        self.scale_maps(torch.where(present > 0, target / present, 0.0).sqrt())

    def scale_maps(self, factor: Tensor) -> None:
        """Multiply the filters by one factor each, (maps,), in place (under `no_grad`)."""
        for layer in (self.real.last, self.imag.last):
            layer.weight.mul_(factor.to(layer.weight)[:, None])
            if layer.bias is not None:
                layer.bias.mul_(factor.to(layer.bias))

    def forward(self, size: Size, dtype: torch.dtype) -> Tensor:
        """`R_h` at the frequencies of `rfft2`: (maps, H, W // 2 + 1), complex, evaluated now."""
        height, width = size
        like = self.real.last.weight.new_empty((), dtype=dtype)
        rows, columns = self.reference_size or (None, None)
        v, v_mirror = axis_coordinates(height, rows, False, like)
        u, u_mirror = axis_coordinates(width, columns, True, like)
        half = (2, height, width // 2 + 1)
        u_2HW = torch.stack([u, u_mirror])[:, None, :].expand(half)
        v_2HW = torch.stack([v, v_mirror])[:, :, None].expand(half)
        grid = torch.stack([u_2HW, v_2HW]).flatten(1)  # (2, points): column first, as in the paper's code
        real = self.real.features(grid).unflatten(1, (2, -1))
        imag = self.imag.features(grid).unflatten(1, (2, -1))
        even = apply_linear(self.real.last, real.sum(1) / 2)
        if self.imag.last.bias is None:
            odd = apply_linear(self.imag.last, (imag[:, 0] - imag[:, 1]) / 2)
        else:
            odd = (apply_linear(self.imag.last, imag[:, 0]) - apply_linear(self.imag.last, imag[:, 1])) / 2
        return torch.complex(even, odd).unflatten(1, half[1:])

    def kernels(self, size: Size, dtype: torch.dtype) -> Tensor:
        """The filters in space, (maps, H, W), real; index (0, 0) is displacement 0."""
        return torch.fft.irfft2(self(size, dtype), s=size)

    def stored(self, key: Hashable, x: Tensor, evaluate: Callable[[], Tensor]) -> Tensor:
        """The result of `evaluate`, kept for the next call unless a gradient needs a fresh one."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or type(x) is not Tensor or x.is_meta:
            return evaluate()
        parameters = tuple(self.parameters())
        if not _may_store(parameters, x):
            return evaluate()
        return self.store.get(key, parameters, evaluate)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Spectrum:
        self.store.clear()
        super()._apply(fn, recurse)
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.store.clear()
        super()._load_from_state_dict(*args, **kwargs)

    def extra_repr(self) -> str:
        """Number of filters, and the reference size, if any."""
        return f"maps={self.maps}" + (f", reference_size={self.reference_size}" if self.reference_size else "")


def _may_store(parameters: tuple[Tensor, ...], x: Tensor) -> bool:
    if torch.is_grad_enabled() and any(p.requires_grad for p in parameters):
        return False
    if x.is_cuda and torch.cuda.is_current_stream_capturing():
        return False  # a graph would go on reading a spectrum that has been dropped
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    return not any(type(p) not in (Tensor, nn.Parameter) or p.is_inference() or wrapped(p) for p in parameters)


@dataclass(frozen=True)
class _State:
    """Spectra of one state of the parameters, and the evidence that the state is still the same."""

    aliases: tuple[Tensor, ...]  # keeps the memory, so that no other values can be placed at its address
    versions: tuple[int, ...]
    values: Tensor | None  # on the CPU: writing through `.data` raises no version
    entries: dict[Hashable, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, parameters: tuple[Tensor, ...]) -> _State:
        return cls(tuple(p.detach() for p in parameters), tuple(p._version for p in parameters), _values(parameters))

    def holds(self, parameters: tuple[Tensor, ...]) -> bool:
        same = len(parameters) == len(self.aliases) and all(
            p.dtype == alias.dtype and p.device == alias.device and p.is_set_to(alias) and p._version == version
            for p, alias, version in zip(parameters, self.aliases, self.versions, strict=True)
        )
        if not same or self.values is None:
            return same
        values = _values(parameters)
        return values is not None and torch.equal(values, self.values)


class SpectrumStore:
    """Evaluated spectra by key, for the present parameters. A change of any parameter drops all spectra.

    The store notices in-place changes (by their version) and other storage. On the CPU it also compares values, which
    finds writes through `.data`. On an accelerator that comparison would make the program wait, so call `clear` there.
    Copies and pickles of a store are empty. A state is replaced as a whole, so threads may share a store.
    """

    def __init__(self) -> None:
        self._state: _State | None = None

    def get(self, key: Hashable, parameters: tuple[Tensor, ...], evaluate: Callable[[], Tensor]) -> Tensor:
        """The stored tensor, or else `evaluate()`, which is then stored."""
        with torch.inference_mode(False), torch.no_grad():
            state = self._state
            if state is None or not state.holds(parameters):
                state = self._state = _State.of(parameters)
            found = state.entries.get(key)
            if found is None:
                found = evaluate()
                if len(state.entries) >= _SIZES_KEPT:
                    state.entries.clear()
                state.entries[key] = found
            return found

    def clear(self) -> None:
        """Forget everything."""
        self._state = None

    def __len__(self) -> int:
        return 0 if self._state is None else len(self._state.entries)

    def __reduce__(self) -> tuple[type[SpectrumStore], tuple[()]]:
        return SpectrumStore, ()


def _values(parameters: Iterable[Tensor]) -> Tensor | None:
    flat = [p.detach().reshape(-1) for p in parameters]
    return torch.cat(flat) if all(part.device.type == "cpu" for part in flat) else None


class _RealFFT(torch.autograd.Function):
    """`rfft2` whose gradient is an `irfft2`; PyTorch's own goes through a full complex FFT."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, height: int, width: int) -> Tensor:
        return torch.fft.rfft2(x, s=(height, width))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, *ctx.size = inputs
        ctx.shape = x.shape[-2:]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        height, width = ctx.size
        # irfft2 counts every column twice, except the first and, for an even width, the last
        share = gradients[0].real.new_full((width // 2 + 1,), 0.5)
        share[0] = 1.0
        if width % 2 == 0:
            share[-1] = 1.0
        whole = torch.fft.irfft2(gradients[0] * share, s=(height, width), norm="forward")
        return whole[..., : ctx.shape[0], : ctx.shape[1]], None, None


def real_fft(x: Tensor, size: Size) -> Tensor:
    """`rfft2` over the last two dimensions, with zeros appended up to `size`."""
    if torch.jit.is_tracing():  # traced graphs cannot hold a Function
        return torch.fft.rfft2(x, s=size)
    return cast(Tensor, _RealFFT.apply(x, *size))


def fast_even_size(least: int) -> int:
    """The smallest even number from `least` on whose only prime factors are 2, 3 and 5."""
    candidate = least + least % 2
    while _largest_rest(candidate) > 1:
        candidate += 2
    return candidate


def _largest_rest(number: int) -> int:
    for prime in (2, 3, 5):
        while number % prime == 0:
            number //= prime
    return number


def linear_size(size: Size) -> Size:
    """The size of a transform that can hold a map and its filter side by side.

    The kernel's displacements d run from -(N // 2), so outputs 0..N-1 stay clear of the wrap-around from
    N + N // 2 pixels on; 2 N - 1 are not needed.
    """
    height, width = size
    return fast_even_size(height + height // 2), fast_even_size(width + width // 2)


def linear_spectrum(kernels: Tensor, size: Size) -> Tensor:
    """Spectra for convolution with zeros around the map, of centred kernels (maps, H, W), in transforms of `size`."""
    height, width = kernels.shape[-2:]
    return torch.fft.rfft2(torch.roll(kernels, (height // 2, width // 2), (-2, -1)), s=size)
