"""The dendritic convolution in plain torch, a few output channels of a few images at a time.

Only the input is saved for the backward pass, which forms `relu(x + b)` again. Nothing of the size (batch, out, in,
H, W) ever exists; `tiling.Tiles` bounds the buffers. All functions expect to run without autograd and autocast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from ..memory_format import memory_format
from ..shapes import output_size
from .tiling import Chunk, Phase, Tap, Tiles, phases


class _Buffers:
    """Named scratch memory, allocated once and reused by every tile: allocating costs more than the sums."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.flat: dict[str, Tensor] = {}

    def take(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        count = 1
        for size in shape:
            count *= size
        held = self.flat.get(name)
        if held is None or held.numel() < count:
            self.flat.pop(name, None)
            self.flat[name] = held = torch.empty(count, dtype=dtype, device=self.device)
        return held[:count].view(tuple(shape))


@dataclass(frozen=True)
class _Operands:
    """Weight (groups, out/groups, taps, in/groups) and biases (groups, out/groups, in/groups, 1) of one phase."""

    phase: Phase
    weight: Tensor
    bias: Tensor

    def of(self, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Weight (outputs, taps, in/groups) and biases (groups, outputs, in/groups, 1) of a chunk."""
        where = chunk.groups, chunk.outputs
        return self.weight[where].flatten(0, 1), self.bias[where]


class _Plan:
    """Geometry, precision and tiles of one call."""

    def __init__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        backward: bool,
    ) -> None:
        self.groups, self.inputs = groups, weight.shape[1]
        self.out = output_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)
        self.tapwise = bias.dim() == 4
        self.phases = phases(x.shape[2:], weight.shape[2:], stride, padding, dilation, self.tapwise)
        # Products of float16 have no fast path on processors.
        slow = x.device.type == "cpu" and weight.dtype == torch.float16
        self.dtype = torch.float32 if slow else weight.dtype
        self.sums = torch.promote_types(self.dtype, torch.float32)
        self.tiles = Tiles.choose(x, weight, self.phases, self.out, backward)
        self.operands = [self._operands(phase, weight, bias) for phase in self.phases]

    def _operands(self, phase: Phase, weight: Tensor, bias: Tensor) -> _Operands:
        taps = [tap.flat for tap in phase.taps]
        w = weight.flatten(2)[:, :, taps].transpose(1, 2).to(self.dtype)
        b = bias.flatten(2)[:, :, taps] if self.tapwise else bias
        shape = self.groups, -1
        return _Operands(
            phase,
            w.reshape(*shape, len(taps), self.inputs).contiguous(),
            b.reshape(*shape, self.inputs, 1).contiguous(),
        )

    def read_all(self, x: Tensor, buffers: _Buffers) -> dict[tuple[int, int], Tensor]:
        """The pixels of every phase, by its start."""
        return {p.start: self.read(x, p, buffers) for p in {p.start: p for p in self.phases}.values()}

    def read(self, x: Tensor, phase: Phase, buffers: _Buffers) -> Tensor:
        """The pixels of a phase as (groups, 1, in/groups, pixels of all images)."""
        images = x[:, :, *phase.pixels].unflatten(1, (self.groups, self.inputs))
        ordered = images.permute(1, 2, 0, 3, 4)
        if not ordered.is_contiguous():
            ordered = buffers.take(f"pixels {phase.start}", ordered.shape, x.dtype).copy_(ordered)
        return ordered.view(self.groups, 1, self.inputs, ordered[0, 0].numel())

    def activate(self, x: Tensor, bias: Tensor, buffers: _Buffers) -> Tensor:
        """`relu(x + bias)` as (batch, in/groups, pixels)."""
        shape = *bias.shape[:3], x.shape[3]
        h = buffers.take("activation", shape, self.dtype)
        return torch.add(x, bias, out=h).relu_().flatten(0, 1)

    def image_tiles(self, images: int) -> list[slice]:
        step = self.tiles.images
        return [slice(first, min(first + step, images)) for first in range(0, images, step)]


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    output_bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """(N, out, H', W') in the weight's dtype; see `reference.dendritic_conv2d_reference` for the arguments."""
    plan = _Plan(x, weight, bias, stride, padding, dilation, groups, backward=False)
    buffers = _Buffers(x.device)
    shape = x.shape[0], weight.shape[0], *plan.out
    out = torch.empty(shape, dtype=weight.dtype, device=x.device, memory_format=memory_format(x))
    direct = out.is_contiguous() and out.dtype == plan.sums
    for images in plan.image_tiles(x.shape[0]):
        seen = plan.read_all(x[images], buffers)
        for chunk in plan.tiles.chunks:
            target = out[images, chunk.channels].transpose(0, 1)  # (outputs, images, H', W')
            total = target if direct else buffers.take("total", target.shape, plan.sums)
            if output_bias is None:
                total.zero_()
            else:
                total.copy_(output_bias[chunk.channels, None, None, None])
            for operands in plan.operands:
                w, b = operands.of(chunk)
                h = plan.activate(seen[operands.phase.start][chunk.groups], b, buffers)
                y = buffers.take("response", (*w.shape[:2], h.shape[2]), plan.dtype)
                _add_taps(total, torch.bmm(w, h, out=y), operands.phase)
            if not direct:
                target.copy_(total)
    return out


def _add_taps(total: Tensor, y: Tensor, phase: Phase) -> None:
    """Add the responses (outputs, taps, pixels) to the output pixels (outputs, images, H', W') they serve."""
    responses = y.view(*y.shape[:2], -1, *phase.size)
    for place, tap in enumerate(phase.taps):
        total[:, :, *tap.target].add_(responses[:, place, :, *tap.source])


def backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    needs: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of (x, weight, bias) where `needs` asks for them, each in its tensor's dtype.

    With G the output's gradient gathered by tap and A the activations: `dW = G Aᵀ`, `dA = Wᵀ G` where A > 0; dx is
    dA summed over the output channels, dB is dA summed over images and pixels.
    """
    plan = _Plan(x, weight, bias, stride, padding, dilation, groups, backward=True)
    buffers = _Buffers(x.device)
    dx = torch.zeros_like(x, memory_format=memory_format(x)) if needs[0] else None
    dw = [torch.zeros_like(o.weight, dtype=plan.sums) for o in plan.operands]
    db = [torch.zeros_like(o.bias, dtype=plan.sums) for o in plan.operands]
    for images in plan.image_tiles(x.shape[0]):
        for _, alike in groupby(enumerate(plan.operands), lambda pair: pair[1].phase.start):
            taken = list(alike)
            phase = taken[0][1].phase
            pixels = plan.read(x[images], phase, buffers)
            total = buffers.take("total", pixels.shape, plan.sums).zero_() if needs[0] else None
            for place, operands in taken:
                parts = _Parts(total, dw[place] if needs[1] else None, db[place] if needs[2] else None)
                _backward_phase(plan, operands, pixels, gradient[images], parts, buffers)
            if dx is not None and total is not None:
                dx[images][:, :, *phase.pixels] = total.view(dx.shape[1], -1, *phase.size).transpose(0, 1)
    return dx, _scatter(plan, dw, weight) if needs[1] else None, _bias(plan, db, bias) if needs[2] else None


class _Parts(NamedTuple):
    """Gradients to add to: of the phase's pixels, of its weight, of its biases."""

    pixels: Tensor | None
    weight: Tensor | None
    bias: Tensor | None


def _backward_phase(
    plan: _Plan, operands: _Operands, pixels: Tensor, gradient: Tensor, parts: _Parts, buffers: _Buffers
) -> None:
    """Add the gradients of one phase of some images; gradient is (images, out, H', W')."""
    gathered = _Gathered(operands.phase, gradient.shape[0], plan, buffers)
    for chunk in plan.tiles.chunks:
        where = chunk.groups, chunk.outputs
        w, b = operands.of(chunk)
        g = gathered.read(gradient[:, chunk.channels].transpose(0, 1)).view(*w.shape[:2], -1)
        h = plan.activate(pixels[chunk.groups], b, buffers)
        if parts.weight is not None:
            parts.weight[where] += torch.bmm(g, h.transpose(1, 2)).view_as(parts.weight[where])
        if parts.pixels is None and parts.bias is None:
            continue
        dh = torch.bmm(w.transpose(1, 2), g, out=buffers.take("slope", h.shape, plan.dtype))
        torch.ops.aten.threshold_backward.grad_input(dh, h, 0, grad_input=dh)
        dh = dh.view(*b.shape[:3], -1)
        if parts.bias is not None:
            parts.bias[where] += dh.sum(3, keepdim=True, dtype=plan.sums)
        if parts.pixels is not None:
            parts.pixels[chunk.groups] += dh.sum(1, keepdim=True, dtype=plan.sums)


class _Gathered:
    """The output's gradient by tap, at the input pixels it came from: (outputs, taps, images, rows, columns).

    Pixels that a tap never serves are set to zero once per tile, since every chunk writes the same other pixels.
    """

    def __init__(self, phase: Phase, images: int, plan: _Plan, buffers: _Buffers) -> None:
        self.phase = phase
        most = max(c.channels.stop - c.channels.start for c in plan.tiles.chunks)
        shape = most, len(phase.taps), images, *phase.size
        self.held = buffers.take("gathered", shape, plan.dtype).zero_()

    def read(self, gradient: Tensor) -> Tensor:
        """Gather the gradient (outputs, images, H', W')."""
        g = self.held[: gradient.shape[0]]
        if gradient.stride(3) != 1:  # rows are read once for every tap
            gradient = gradient.contiguous()
        for place, tap in enumerate(self.phase.taps):
            g[:, place, :, *tap.source].copy_(gradient[:, :, *tap.target])
        return g


def _scatter(plan: _Plan, parts: list[Tensor], like: Tensor) -> Tensor:
    """Values for every tap, collected from the phases. Taps that read only padding get 0."""
    whole = torch.zeros(like.shape, dtype=plan.sums, device=like.device).flatten(2)
    for phase, part in zip(plan.phases, parts, strict=True):
        whole[:, :, _indices(phase.taps)] = part.reshape(len(like), len(phase.taps), -1).transpose(1, 2)
    return whole.view(like.shape).to(like.dtype)


def _bias(plan: _Plan, parts: list[Tensor], bias: Tensor) -> Tensor:
    """The biases' gradient: one per pair is the sum over phases, one per tap lies in the phase of its tap."""
    if plan.tapwise:
        return _scatter(plan, parts, bias)
    whole = torch.zeros_like(bias, dtype=plan.sums)
    for part in parts:
        whole += part.view(bias.shape)
    return whole.to(bias.dtype)


def _indices(taps: Sequence[Tap]) -> list[int]:
    return [tap.flat for tap in taps]
