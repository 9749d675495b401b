"""What do complex streams cost beside their convolutions, and what does forming the filters cost?

- `inference`: a fused harmonic block and the fused `harmonic_mnist` against the same convolutions with a plain ReLU
  behind each (the same channel counts, BatchNorms folded in both), eager and compiled by torch. Goal: at most 1.1 of
  their time. The rest is the cost of magnitudes: a square, a root and a product for every number, several passes over
  memory in eager mode, one when compiled.
- `training` and `unfused`: our layers, which form one kernel per pass, against the straightforward form
  (`benchmarks/peers/harmonic.py`), which forms complex filters in every pass and runs four real convolutions for every
  pair of orders. They are timed in a training step and in evaluation before fusing. Correctness first, in float64;
  without it there is no figure.

    python -m benchmarks.units.frequency --sections harmonic
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import convswap
from benchmarks.peers.straightforward import straightforward
from benchmarks.units.layers import Settings, difference, inference, ratio, times, training_step
from convswap.units import ComplexReLU, HarmonicBlock, MagnitudeAffine

GOAL = 1.1
TOLERANCE = 1e-9
PLACES = {"64->64, 28 px, batch 4": (64, 28, 4), "32->32, 56 px, batch 4": (32, 56, 4), "16->16, 32 px": (16, 32, 32)}
MODES: tuple[tuple[str, Callable[[nn.Module], Any]], ...] = (("eager", nn.Module.eval), ("compiled", torch.compile))
QUICK_PLACES = {"8->8, 6 px, batch 2": (8, 6, 2)}


class SummedReLU(nn.Module):
    """The plain counterpart of leaving with magnitudes: ReLU, then halves (or M + 1 parts) added up."""

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, x: Tensor) -> Tensor:
        """(N, parts C, H, W) -> (N, C, H, W)."""
        first, *rest = x.relu().chunk(self.parts, 1)
        for part in rest:
            first = first + part
        return first


class PlainHead(nn.Module):
    """A network whose last map has several parts for every class: their sum, and the global mean."""

    def __init__(self, body: nn.Module, head: nn.Module, parts: int) -> None:
        super().__init__()
        self.body, self.head, self.end = body, head, SummedReLU(parts)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, classes)."""
        return self.end(self.head(self.body(x))).mean((2, 3))


def with_relu(fused: nn.Module) -> nn.Module:
    """A copy whose layers on magnitudes are plain rectifiers; the convolutions are the same."""
    plain = copy.deepcopy(fused)
    for path, module in list(plain.named_modules()):
        if isinstance(module, ComplexReLU | MagnitudeAffine):
            leaves = isinstance(module, MagnitudeAffine) and module.leave
            parent = plain.get_submodule(path.rpartition(".")[0])
            parts = 2 * (module.max_order + 1)
            setattr(parent, path.rpartition(".")[2], SummedReLU(parts) if leaves else nn.ReLU())
    return plain


def block_of(channels: int) -> HarmonicBlock:
    """A block with trained-like statistics, orders 0 and 1, 5x5."""
    torch.manual_seed(0)
    block = HarmonicBlock(channels, channels)
    norm = block.norm.norm
    nn.init.uniform_(norm.running_mean, 0.5, 1.0)  # type: ignore[arg-type]
    nn.init.uniform_(norm.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return block


def fused_pairs(quick: bool) -> dict[str, tuple[nn.Module, nn.Module, Tensor]]:
    """Fused harmonic and plain, and an input, by name."""
    found: dict[str, tuple[nn.Module, nn.Module, Tensor]] = {}
    for name, (channels, side, batch) in (QUICK_PLACES if quick else PLACES).items():
        fused = block_of(channels).eval().fuse()
        found[f"block {name}"] = fused, with_relu(fused), torch.randn(batch, channels, side, side)
    image = torch.randn(2 if quick else 32, 1, 28, 28)
    network: Any = convswap.fuse(convswap.create_model("harmonic_mnist", num_classes=10, in_channels=1).eval(), image)
    twin = with_relu(network)
    plain = PlainHead(twin.blocks, twin.head, 4).eval()  # type: ignore[arg-type]
    found["harmonic_mnist"] = network, plain, image
    return found


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All cells; options: `device`, `seconds`, `quick`, each with a default.

    Raises:
        RuntimeError: the straightforward form is not equal to ours: then there is no figure.
    """
    device, quick = torch.device(getattr(options, "device", "cpu")), getattr(options, "quick", False)
    settings = Settings(device, "fp32", 0.0 if quick else getattr(options, "seconds", 1.0))
    rows: list[dict[str, Any]] = []
    for name, (ours, plain, x) in fused_pairs(quick).items():
        for mode, prepare in (("eager", nn.Module.eval),) if quick else MODES:
            pair = {key: inference(prepare(module), x, settings) for key, module in (("ours", ours), ("plain", plain))}
            taken = times(pair, settings)
            row = {"what": "inference", "case": name, "mode": mode, "to_plain": ratio(taken["ours"], taken["plain"])}
            rows.append(row | {"ours_ms": 1e3 * min(taken["ours"]), "within_goal": row["to_plain"]["ratio"] <= GOAL})
            print(f"harmonic {name:32} {mode:9} {row['to_plain']['ratio']:.3f} of plain convolutions", flush=True)
    for name, (channels, side, batch) in (QUICK_PLACES if quick else PLACES).items():
        block = block_of(channels)
        peer, x = straightforward("harmonic", block), torch.randn(batch, channels, side, side)
        assert peer is not None
        exact = copy.deepcopy(block).double().eval()
        apart = difference(exact, copy.deepcopy(straightforward("harmonic", exact)), x[:1].double())  # type: ignore[arg-type]
        if not apart <= TOLERANCE:
            raise RuntimeError(f"{name}: ours and the straightforward form differ by {apart:.1e}: there is no figure")
        for what, make in (("training", training_step), ("unfused", inference)):
            taken = times({"ours": make(block, x, settings), "other": make(peer, x, settings)}, settings)
            row = {"what": what, "case": name, "straightforward_to_ours": ratio(taken["other"], taken["ours"])}
            rows.append(row | {"ours_ms": 1e3 * min(taken["ours"]), "difference": apart})
            print(f"harmonic block {name:26} {what:9} {row['straightforward_to_ours']['ratio']:.2f} times faster")
    met = {
        mode: all(row["within_goal"] for row in rows if row.get("mode") == mode)
        for mode in ("eager", "compiled")
        if any(row.get("mode") == mode for row in rows)
    }
    return {"precision": "fp32", "rows": rows, "goal": {"inference_to_plain": GOAL, "met": met}}
