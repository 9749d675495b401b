"""How large are kernels really? The share of their magnitude and energy in small windows, and their components.

The measures of the NIFF authors (arXiv:2307.10001), who found that filters as large as the map put most of their mass
within about 9x9. Their notebook sums `k[c-i:c+i]`, a window of 2 i pixels, and draws it at size 2 i + 1; here a window
of size s has s pixels (`official=True` gives theirs).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import UsageError, check_number, check_whole
from ..hooks import Hooks, writes
from ..surgery.modes import evaluating


@dataclass(frozen=True)
class KernelMass:
    """What `kernel_mass` finds.

    Attributes:
        sizes: window sides 1, 3, 5, .. until the window holds the whole kernel.
        mass: (kernels, sizes), the part of the sum of magnitudes within the window. NaN for a kernel of zeros.
        energy: (kernels, sizes), the part of the sum of squares.
    """

    sizes: tuple[int, ...]
    mass: Tensor
    energy: Tensor

    def mean(self, size: int) -> tuple[float, float]:
        """Mean mass and mean energy within windows of this side. Windows larger than the kernel hold all of it.

        Raises:
            ValueError: an even or not positive size.
        """
        check_whole("size", size, odd=True)
        index = min(size // 2, len(self.sizes) - 1)
        return float(self.mass[:, index].nanmean()), float(self.energy[:, index].nanmean())

    def size_holding(self, part: float) -> int:
        """The smallest window that holds this part of the energy on average.

        Raises:
            ValueError: a part that is not above 0 and at most 1.
        """
        check_number("part", part, lambda share: 0 < share <= 1, "a number from 0, excluded, to 1")
        mean = self.energy.nanmean(0)
        return next((s for s, e in zip(self.sizes, mean, strict=True) if float(e) >= part), self.sizes[-1])


def kernel_mass(kernels: Tensor, *, official: bool = False) -> KernelMass:
    """The part of centred kernels (.., H, W), centre (H // 2, W // 2), within square windows around the centre.

    Args:
        kernels: real, any leading dimensions.
        official: the windows of the authors' notebook, which end one row and column earlier: `[c - i, c + i)`.

    Raises:
        ValueError: fewer than two dimensions.
    """
    if kernels.dim() < 2:
        raise UsageError(f"kernels of shape {tuple(kernels.shape)} are not allowed; give (.., H, W)")
    k_KHW = kernels.detach().to(torch.float64).reshape(-1, *kernels.shape[-2:])
    reach = max(max(n // 2, n - 1 - n // 2) for n in k_KHW.shape[1:])
    parts = []
    for values in (k_KHW.abs(), k_KHW.square()):
        whole = values.sum((1, 2))
        windows = [_window(values, i, 0 if official else 1).sum((1, 2)) / whole for i in range(reach + 1)]
        parts.append(torch.stack(windows, 1))
    return KernelMass(tuple(2 * i + 1 for i in range(reach + 1)), *parts)


def _window(values: Tensor, reach: int, extra: int) -> Tensor:
    rows, columns = (slice(max(n // 2 - reach, 0), n // 2 + reach + extra) for n in values.shape[1:])
    return values[:, rows, columns]


def niff_kernel_mass(model: nn.Module, example_input: Tensor) -> dict[str, KernelMass]:
    """`kernel_mass` of every frequency filter of a model (hook `filters`), at the sizes of the maps it sees.

    The kernels are taken before the 1x1 convolution of the split form. The model is run in evaluation mode and left as
    it was.

    Raises:
        ValueError: the model has no `niff` unit.
    """
    sizes: dict[str, tuple[int, int]] = {}
    units = {name: m for name, m in model.named_modules() if writes(m, Hooks.filters)}
    if not units:
        raise UsageError(f"{type(model).__name__} has no niff unit whose kernels could be measured")

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            height, width = args[0].shape[-2:]
            sizes[name] = (height, width)

        return hook

    handles = [unit.register_forward_pre_hook(note(name)) for name, unit in units.items()]
    try:
        with evaluating(model), torch.no_grad():
            model(example_input)
    finally:
        for handle in handles:
            handle.remove()
    found = {}
    with torch.no_grad():
        for name, size in sizes.items():
            kernels = cast(Tensor, cast(Hooks, units[name]).filters(size))
            found[name] = kernel_mass(torch.roll(kernels, (size[0] // 2, size[1] // 2), (-2, -1)))
    return found


@dataclass(frozen=True)
class KernelComponents:
    """Principal components of kernels: (count, H, W), the part of the variance each explains, and the mean (H, W)."""

    components: Tensor
    explained: Tensor
    mean: Tensor


def kernel_components(kernels: Tensor, count: int = 7) -> KernelComponents:
    """Principal components of kernels (K, H, W), mean-centred, by falling variance; their signs are arbitrary.

    Raises:
        ValueError: not three dimensions; fewer kernels or pixels than `count`; `count` is not a whole number.
    """
    if kernels.dim() != 3:
        raise UsageError(f"kernels of shape {tuple(kernels.shape)} are not allowed; give (K, H, W)")
    flat = kernels.detach().to(torch.float64).flatten(1)
    most = min(flat.shape)
    reason = f", the most components of {len(flat)} kernels of {flat.shape[1]} pixels"
    check_whole("count", count, 1, most, hint=reason)
    mean = flat.mean(0)
    _, values, directions = torch.linalg.svd(flat - mean, full_matrices=False)
    variance = values.square()
    shape = kernels.shape[1:]
    return KernelComponents(
        directions[:count].reshape(count, *shape), variance[:count] / variance.sum(), mean.reshape(shape)
    )
