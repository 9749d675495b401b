"""One pass over the calibration set: what a criterion needs to know of gradients and activations.

For a layer that reads C channels by a weight W (O, C, k, k), sample s has the gradient g_s = d L_s / d W. The matrix
G has a column for each channel c, of all entries of g_s[:, c] for all s. `Calibration.gradients` is M = G^T G, C x C,
summed over the layers that read a group. G itself is never stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import DataError, SurgeryError, UsageError, first_line
from .groups import ChannelGroup

Batch = tuple[Tensor, Tensor]
LossFunction = Callable[[Any, Any], Tensor]
_MOST_NUMBERS = 2**25
"""Numbers that one step of a pass may hold per layer (128 MB in float32)."""


@dataclass
class Calibration:
    """What a pass has summed up.

    Attributes:
        samples: number of images.
        gradients: by group, M (elements x elements), float64.
        activations: by the path of a layer that can be compensated, the sum of y y^T over its inputs y, float64.
    """

    samples: int = 0
    gradients: list[Tensor] = field(default_factory=list)
    activations: dict[str, Tensor] = field(default_factory=dict)


def cross_entropy(outputs: Any, labels: Tensor) -> Tensor:
    """The cross entropy of every image, (N,)."""
    if not isinstance(outputs, Tensor) or outputs.dim() != 2:
        what = f"of shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
        raise UsageError(f"the model returns {what}, not logits (N, classes); give a loss(outputs, labels)")
    if labels.dim() != 1 or len(labels) != len(outputs) or labels.is_floating_point():
        raise DataError(
            f"labels of shape {tuple(labels.shape)} and {labels.dtype} do not fit {len(outputs)} images; give one "
            "whole number for each"
        )
    worst = next((int(v) for v in (labels.max(), labels.min()) if not 0 <= v < outputs.shape[1]), None)
    if worst is not None:
        raise DataError(f"label {worst} is outside 0..{outputs.shape[1] - 1}, the model's {outputs.shape[1]} classes")
    return F.cross_entropy(outputs, labels.long(), reduction="none")


def calibrate(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    batches: Iterable[Batch],
    loss: LossFunction | None = None,
    *,
    gradients: bool,
    activations: bool,
) -> Calibration:
    """Run the model over the batches, forward and backward. The parameters' `.grad` hold the sum over all images.

    Args:
        model: in eval mode, with parameters that require gradients.
        groups: the groups of `find_groups`.
        batches: pairs of images and labels.
        loss: from outputs and labels to a loss per image (N,), or to a sum over the images.
        gradients: sum up M for each group.
        activations: sum up y y^T for each layer that reads a group.

    Raises:
        DataError: there is no batch, or images and labels do not fit the model.
    """
    found = Calibration()
    sizes = [group.size for group in groups] if gradients else []
    device = next(model.parameters()).device
    found.gradients = [torch.zeros(size, size, dtype=torch.float64, device=device) for size in sizes]
    compute = loss or cross_entropy
    model.zero_grad()
    with _watching(model, groups, found, gradients, activations):
        for number, batch in enumerate(batches):
            images, labels = _pair(batch, number)
            with torch.enable_grad():
                try:
                    outputs = model(images.to(device))
                except Exception as error:
                    shape = tuple(images.shape)
                    raise DataError(
                        f"the model does not accept images of shape {shape}: {first_line(error)}"
                    ) from error
                losses = compute(outputs, labels.to(device))
                if not bool(losses.isfinite().all()):
                    raise SurgeryError(f"the loss of batch {number} of the calibration set is not finite")
                losses.sum().backward()
            found.samples += len(images)
    if not found.samples:
        raise DataError("batches holds no images; give pairs of images (N, C, H, W) and labels (N,)")
    return found


def _pair(batch: Any, number: int) -> Batch:
    if not (isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)):
        raise DataError(
            f"batch {number} is {type(batch).__name__}, not a pair of tensors: images (N, C, H, W) and labels (N,)"
        )
    return batch[0], batch[1]


@contextmanager
def _watching(
    model: nn.Module, groups: Sequence[ChannelGroup], found: Calibration, gradients: bool, activations: bool
) -> Iterator[None]:
    reads: dict[str, list[tuple[int, Tensor]]] = {}
    for index, group in enumerate(groups):
        for member in group.readers:
            reads.setdefault(member.path, []).append((index, torch.tensor(member.places)))

    def watch(path: str) -> Any:
        def hook(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
            x = arguments[0].detach()
            if activations and can_compensate(module):
                add = _second_moment(module, x)
                found.activations[path] = found.activations.get(path, 0) + add
            if gradients and output.requires_grad:
                output.register_hook(lambda delta: _add(module, x, delta.detach(), reads[path], found.gradients))

        return hook

    handles = [model.get_submodule(path).register_forward_hook(watch(path)) for path in reads]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def can_compensate(module: nn.Module) -> bool:
    """Can the weights of kept channels take over what removed ones contributed? One weight per pair of channels."""
    return (isinstance(module, nn.Conv2d) and module.groups == 1) or isinstance(module, nn.Linear)


def _second_moment(module: nn.Module, x: Tensor) -> Tensor:
    rows = x.flatten(0, -2) if isinstance(module, nn.Linear) else x.movedim(-3, -1).flatten(0, -2)
    rows = rows.double()
    return rows.T @ rows


def _add(module: Any, x: Tensor, delta: Tensor, reads: list[tuple[int, Tensor]], sums: list[Tensor]) -> None:
    """Add this call's part of M to every group that the layer reads."""
    each = max(1, _MOST_NUMBERS // max(1, _numbers(module, x, delta)))
    for start in range(0, len(x), each):
        columns = outgoing_gradients(module, x[start : start + each], delta[start : start + each])
        for index, places in reads:
            for copies in places.T:
                mine = columns[copies.to(columns.device)]
                sums[index] += (mine @ mine.T).to(sums[index])


def _numbers(module: Any, x: Tensor, delta: Tensor) -> int:
    """How many numbers one image's gradient takes."""
    if isinstance(module, nn.Linear):
        return x[0].numel()
    kernel = module.weight.shape[2:].numel() if isinstance(module, nn.Conv2d) else 1
    return int(x.shape[1] * kernel * max(delta.shape[1], delta.shape[2:].numel()))


def outgoing_gradients(module: Any, x: Tensor, delta: Tensor) -> Tensor:
    """The columns of G, (C, rows), up to a rotation of the rows, for the calls' images.

    Args:
        module: a convolution, a linear layer, or a module that only selects and pads channels (as a 1x1 convolution).
        x: its inputs (N, C, H, W), or (N, ..., C) of a linear layer.
        delta: the gradient of the loss with respect to its outputs.
    """
    if isinstance(module, nn.Linear):
        if x.dim() == 2:  # g = delta x^T has rank one: its columns are x_c |delta|, rotated
            return (x * delta.norm(dim=1, keepdim=True)).T
        gradient = torch.einsum("nto,ntc->cno", delta.flatten(1, -2), x.flatten(1, -2))
        return gradient.flatten(1)
    if not isinstance(module, nn.Conv2d):
        stride = getattr(module, "stride", 1)
        taken = x[:, :, ::stride, ::stride].flatten(2)
        return torch.einsum("nol,ncl->cno", delta.flatten(2), taken).flatten(1)
    groups = module.groups
    patches = _patches(module, x, delta.shape[2:])  # (N, C, k k, L)
    n, channels, kernel, places = patches.shape
    patches = patches.reshape(n, groups, channels // groups, kernel, places)
    errors = delta.reshape(n, groups, delta.shape[1] // groups, places)
    gradient = torch.einsum("ngol,ngckl->gcnok", errors, patches)
    return gradient.reshape(channels, -1)


def _patches(conv: nn.Conv2d, x: Tensor, size: torch.Size) -> Tensor:
    kernel = conv.weight.shape[2:]
    before = conv._reversed_padding_repeated_twice if isinstance(conv.padding, str) else _both_sides(conv.padding)
    needed = [
        (out - 1) * stride + dilation * (k - 1) + 1 - have
        for out, stride, dilation, k, have in zip(size, conv.stride, conv.dilation, kernel, x.shape[2:], strict=True)
    ]
    if any(pad > sum(before[2 * i : 2 * i + 2]) for i, pad in enumerate(reversed(needed))):
        # The layer pads its input by itself, as TensorFlow does: the larger half comes last.
        before = [part for pad in reversed(needed) for part in (max(pad, 0) // 2, max(pad, 0) - max(pad, 0) // 2)]
    x = F.pad(x, before, "constant" if conv.padding_mode == "zeros" else conv.padding_mode)
    found = F.unfold(x, tuple(kernel), conv.dilation, 0, conv.stride)
    return found.reshape(len(x), x.shape[1], kernel.numel(), -1)


def _both_sides(padding: Sequence[int]) -> list[int]:
    return [pad for pad in reversed(padding) for _ in range(2)]
