"""How end-stopped the channels of a layer are: do they answer to corners and line ends, or to edges?

The measure of the FP-net authors (J. Vision 22(1):8, from their code). A layer sees one bright and one dark square.
Each channel's energy over the square's middle, its sides and its corners is compared. The measure is meaningful for
layers of about full resolution, so for the first stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError, is_whole
from ..surgery.modes import evaluating

_EPSILON = 0.1


@dataclass(frozen=True)
class EndStopping:
    """What `end_stopping` finds, one entry per channel.

    Attributes:
        degree: `1 - I1 / (I2 + 0.1)`, not below -0.5: near 1 for a channel that answers to corners only, near 0 for
            one that answers equally to corners and sides. NaN for silent and homogeneous channels.
        silent: channels that answer nowhere, `I0 + I1 + I2 < 0.1`.
        homogeneous: channels that answer to the even middle as well, `1 - I0 / (I1 + 0.1) < 0.1` ("0D").
        energy: (C, 3), the energies I0 over the middle, I1 over the sides, I2 over the corners.
    """

    degree: Tensor
    silent: Tensor
    homogeneous: Tensor
    energy: Tensor

    def mean(self) -> float:
        """The mean degree of the channels that have one; NaN if there is none."""
        return float(self.degree.nanmean())


def end_stopping(
    model: nn.Module,
    layer: str | nn.Module,
    *,
    image_size: int = 32,
    square: int | None = None,
    window: int | None = None,
    in_channels: int = 3,
) -> EndStopping:
    """The degree of end-stopping of a layer's channels.

    Two images, 0 with a centred square of +1 and of -1, are standardised and shown to the model one by one. With
    `E = min(act^2 / (3 std(act^2) + mean(act^2)), 1)`, mean and deviation over all channels, the energies I0, I1, I2
    are the sums of E under three masks of the same area, added up over both images: one window of side 2w in the
    middle of the square, four windows of side w centred on the middles of its sides, and four centred on its corners.
    On smaller maps the masks are subsampled. Deviations are those of the population.

    Args:
        model: run in evaluation mode, without gradients; left as it was.
        layer: the module, or its path in the model; its output must be one map (1, C, H, W) per pass.
        image_size: height and width of the images.
        square: side of the square; by default 64 for 224 pixels, else half of the image. Even.
        window: side w of the windows; by default a quarter of the square. Even.
        in_channels: channels of the images, all equal.

    Raises:
        ValueError: a size is not allowed, there is no such layer, or its maps are too small or of another shape.
    """
    side = (64 if image_size == 224 else image_size // 2) if square is None else square
    width = side // 4 if window is None else window
    _check_sizes(image_size, side, width)
    target = _find(model, layer)
    masks = _masks(image_size, side, width)
    energy = sum(
        _energies(_activation(model, target, _image(sign, image_size, side, in_channels)), masks) for sign in (1, -1)
    )
    assert isinstance(energy, Tensor)  # a sum of two
    middle, sides, corners = energy.unbind(1)
    silent = energy.sum(1) < _EPSILON
    homogeneous = ~silent & (1 - middle / (sides + _EPSILON) < _EPSILON)
    degree = (1 - sides / (corners + _EPSILON)).clamp(min=-0.5)
    return EndStopping(degree.masked_fill(silent | homogeneous, torch.nan), silent, homogeneous, energy)


def _check_sizes(image_size: int, square: int, window: int) -> None:
    for name, value, most in (
        ("image_size", image_size, None),
        ("square", square, image_size),
        ("window", window, min(square // 2, image_size - square)),
    ):
        if not is_whole(value) or value < 2 or value % 2 or (most is not None and value > most):
            limit = "" if most is None else f" and at most {most}"
            raise UsageError(f"{name}={value!r} is not allowed; give an even whole number of at least 2{limit}")


def _find(model: nn.Module, layer: str | nn.Module) -> nn.Module:
    if isinstance(layer, str):
        try:
            return model.get_submodule(layer)
        except AttributeError as error:
            raise UsageError(f"layer={layer!r}: the model has no such module ({error})") from error
    if not any(module is layer for module in model.modules()):
        raise UsageError(f"layer={type(layer).__name__}(...) is not a module of the model; give one, or its path")
    return layer


def _image(sign: int, size: int, square: int, channels: int) -> Tensor:
    """(1, channels, size, size): a centred square on 0, standardised."""
    image = torch.zeros(size, size, dtype=torch.float64)
    start = (size - square) // 2
    image[start : start + square, start : start + square] = sign
    image = (image - image.mean()) / image.std(correction=0)
    return image.expand(1, channels, size, size)


def _activation(model: nn.Module, layer: nn.Module, image: Tensor) -> Tensor:
    """The layer's output (C, H, W) in float64 on the CPU."""
    seen: list[Any] = []
    handle = layer.register_forward_hook(lambda module, args, output: seen.append(output))
    like = next(model.parameters(), torch.zeros(()))
    try:
        with evaluating(model), torch.no_grad():
            model(image.to(like.device, like.dtype))
    finally:
        handle.remove()
    if len(seen) != 1 or not isinstance(seen[0], Tensor) or seen[0].dim() != 4:
        shapes = [tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__ for output in seen]
        raise UsageError(f"layer: its output must be one map (1, C, H, W) per pass, got {shapes}")
    return seen[0][0].detach().double().cpu()


def _masks(size: int, square: int, window: int) -> Tensor:
    """(3, size, size): middle, sides and corners, each of 4 w^2 pixels."""
    low, high, half = (size - square) // 2, (size + square) // 2, size // 2
    masks = torch.zeros(3, size, size, dtype=torch.float64)

    def mark(index: int, row: int, column: int, reach: int) -> None:
        masks[index, row - reach : row + reach, column - reach : column + reach] = 1

    mark(0, half, half, window)
    for row, column in ((low, half), (high, half), (half, low), (half, high)):
        mark(1, row, column, window // 2)
    for row in (low, high):
        for column in (low, high):
            mark(2, row, column, window // 2)
    return masks


def _energies(activation_CHW: Tensor, masks: Tensor) -> Tensor:
    """(C, 3): each channel's normalised energy under the masks."""
    size, (height, width) = masks.shape[-1], activation_CHW.shape[1:]
    step = size // height
    if height != width or step * height != size:
        raise UsageError(
            f"layer: its maps of {height}x{width} do not divide an image of {size}x{size}; take a layer of higher "
            "resolution or another image_size"
        )
    small = masks[:, ::step, ::step]
    if (small.sum((1, 2)) * step**2 != masks.sum((1, 2))).any():
        raise UsageError(
            f"layer: its maps of {height}x{width} are too small for the windows; take a layer of higher resolution, "
            "or larger square= and window="
        )
    energy = activation_CHW.square()
    scale = 3 * energy.std(correction=0) + energy.mean()
    energy = (energy / scale).clamp(max=1) if scale > 0 else energy
    return torch.einsum("chw,mhw->cm", energy, small)
