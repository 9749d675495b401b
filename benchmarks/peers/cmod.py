"""The complex-wavelet stem as its authors compute it: four trees stage by stage, all packets, every second pixel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convswap.units.cmod.parts import ARCHES
from convswap.units.cmod.wavelets import stage_filters, transform_padding

from .complex_numbers import without_autocast

_FOLLOWS = {
    "h1fs": "1",
    "g1fs": "2",
    "h2fs": "2",
    "g2fs": "1",
    "h1": "1",
    "g1": "",
    "h2": "2",
    "g2": "",
    "h": "",
    "g": "",
}


class Stage(nn.Module):
    """Every map split into four, (low, low) .. (high, high), by its own filters: down the columns, along the rows."""

    def __init__(self, maps: list[tuple[str, str]], first: bool, stride: int, dilation: int) -> None:
        super().__init__()
        filters, self.stride, self.dilation = stage_filters(), stride, dilation
        down, along, self.maps = [], [], []
        for vertical, horizontal in maps:
            pairs = [
                (f"h{n}fs", f"g{n}fs") if first else (f"h{_FOLLOWS[n]}", f"g{_FOLLOWS[n]}")
                for n in (vertical, horizontal)
            ]
            down += [filters[name] for name in pairs[0]]
            along += [filters[name] for _ in range(2) for name in pairs[1]]
            self.maps += [(v, h) for v in pairs[0] for h in pairs[1]]
        self.register_buffer("down", torch.stack(down)[:, None, :, None])
        self.register_buffer("along", torch.stack(along)[:, None, None, :])

    @without_autocast
    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, 4 C, H', W')."""
        down, along = self.down.to(x.dtype), self.along.to(x.dtype)
        y = F.conv2d(x, down, None, (self.stride, 1), 0, (self.dilation, 1), x.shape[1])
        return F.conv2d(y, along, None, (1, self.stride), 0, (1, self.dilation), y.shape[1])


class Modulus(nn.Module):
    """Luminance, the whole transform at the convolution's stride, selection, mix, every second pixel, modulus."""

    def __init__(self, unit: Any) -> None:
        super().__init__()
        arch, maps = ARCHES[unit.arch], unit.wavelets
        self.depth, self.free, self.norm, self.after, self.pool = (
            arch.depth,
            unit.free,
            unit.norm,
            unit.after,
            unit.pool,
        )
        self.weight, self.mix, self.selection = maps.weight, nn.ParameterList(maps.mix), maps.selection
        self.cut = (transform_padding(arch.depth, arch.stride) - arch.start) // arch.stride
        self.padding = transform_padding(arch.depth, arch.stride)
        self.trees = nn.ModuleList()
        for tree in (("1", "1"), ("1", "2"), ("2", "1"), ("2", "2")):
            names, stride, dilation, stages = [tree], arch.stride, 1, []
            for depth in range(arch.depth):
                step = 2 if stride > 1 else 1
                stages.append(Stage(names, depth == 0, step, dilation))
                names, stride, dilation = stages[-1].maps, stride // 2, dilation * (3 - step)
            self.trees.append(nn.Sequential(*stages))

    def packets(self, x: Tensor) -> Tensor:
        """All packets, complex, at the stride of the convolution."""
        y = F.pad(F.conv2d(x, self.weight), (self.padding,) * 4)
        aa, ab, ba, bb = (tree(y) for tree in self.trees)
        return torch.cat([torch.complex(aa - bb, ba + ab), torch.complex(aa + bb, ba - ab)], 1)

    @without_autocast
    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W')."""
        low = self.pool(F.relu(self.norm(self.free(x))))
        z = self.packets(x)[:, list(self.selection.packets)]
        z = torch.where(self.conjugated(z), z.conj(), z)[:, :, self.cut :, self.cut :]
        mixed, s = [], self.selection
        for part, weight, groups in zip(z.split(s.inputs, 1), self.mix, s.groups, strict=True):
            real, imaginary = (F.conv2d(p, weight[:, :, None, None], groups=groups) for p in (part.real, part.imag))
            mixed.append(torch.complex(real, imaginary))
        high = torch.cat(mixed, 1)[:, :, ::2, ::2][:, :, : low.shape[2], : low.shape[3]]
        return torch.cat([low, F.relu(self.after(high.abs()))], 1)

    def conjugated(self, z: Tensor) -> Tensor:
        """Which of the selected packets are negated in their imaginary part."""
        pattern, whole = {2: "10", 3: "10100000"}[self.depth], 4**self.depth
        flags = [(pattern[k % len(pattern)] == "1") != (k >= whole) for k in self.selection.packets]
        return torch.tensor(flags, device=z.device)[:, None, None]
