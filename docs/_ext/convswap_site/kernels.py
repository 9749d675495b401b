"""Pictures of kernels: what a unit stores, and what it convolves with."""

from __future__ import annotations

import io
import itertools
from typing import Any

import torch
from torch import nn

from convswap.see import Layer, effective_kernel
from convswap.see.draw.picture import SIGNED, bare
from convswap.units import UnitSpec

COLUMNS = 6
SEED = 0


def kernel_layer(spec: UnitSpec) -> nn.Module | None:
    """The unit over kernels drawn from a standard normal distribution, 5x5 if it can; None where nothing fits."""
    cls: Any = spec.cls
    if spec.replaces != "convolution":
        return None
    for size, groups in itertools.product((5, 3), (1, COLUMNS)):
        conv = nn.Conv2d(COLUMNS, COLUMNS, size, padding=size // 2, groups=groups).eval()
        if cls.supports(conv) is None:
            with torch.no_grad():
                conv.weight.normal_(generator=torch.Generator().manual_seed(SEED))
            torch.manual_seed(SEED)
            unit: nn.Module = cls.fresh_like(conv)
            return unit
    return None


def kernel_picture(spec: UnitSpec) -> tuple[bytes, str] | None:
    """A PNG of some kernels and a sentence about it; None for a unit that is no convolution with one kernel.

    The upper row shows the stored parameter where there is one of the kernel's shape, the lower row the effective
    kernel of the same filters. Every kernel has its own scale: purple is negative, orange positive.
    """
    unit = kernel_layer(spec)
    if unit is None:
        return None
    layer = Layer(spec.name, unit)
    weight, origin = effective_kernel(layer)
    if origin == "linearised":
        return None
    shown: dict[str, torch.Tensor] = {origin: weight[:COLUMNS, 0]}
    stored = getattr(unit, "weight", None)
    if origin == "effective weight" and isinstance(stored, nn.Parameter) and not torch.equal(stored.double(), weight):
        shown = {"stored weight": stored.detach().double()[:COLUMNS, 0], **shown}
    size = " x ".join(map(str, weight.shape[-2:]))
    drawn = "" if spec.constant_weight else f", from weights drawn with seed {SEED}"
    alt = f"Kernels of {len(weight[:COLUMNS])} filters of {spec.name}, {size}{drawn}: {' above '.join(shown)}. "
    return _png(shown), alt + "Purple is negative, orange positive, each kernel in its own scale."


def _png(rows: dict[str, torch.Tensor]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 0.35 + 1.25 * len(rows)), layout="constrained", facecolor="white")
    axes = figure.subplots(len(rows), COLUMNS, squeeze=False)
    for line, (name, kernels) in zip(axes, rows.items(), strict=True):
        for ax, kernel in zip(line, kernels, strict=True):
            most = float(kernel.abs().max()) or 1.0
            ax.imshow(-(kernel / most).numpy(), cmap=SIGNED, vmin=-1, vmax=1, interpolation="nearest")
            bare(ax)
        line[0].set_title(name, fontsize=9, loc="left")
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=160, metadata={"Software": None})
    return target.getvalue()
