"""Random numbers that a unit draws while it trains, as a hash of a saved counter.

The state is the persistent buffer `draw_state` = (seed, count). Every layer has a seed of its own, drawn at
construction from torch's generator. The count rises with each training forward. Hence a resumed run repeats the same
draws, DDP ranks agree (DDP gives them rank 0's buffers), and compiled and eager runs agree. Under activation
checkpointing the recomputation inside the backward pass takes the latest forward's draw again. That last rule has a
limit: a module called several times before the backward pass of a checkpointed step reuses its last draw for all.
"""

from __future__ import annotations

from typing import Any, Self, cast

import torch
from torch import Tensor, nn

_MASK = 0xFFFFFFFF


class Draws:
    """Mixin, before `nn.Module`: the buffer `draw_state`, which survives `to_empty` and plain checkpoints."""

    draw_state: Tensor

    def register_draws(self, device: torch.device) -> None:
        """Make the buffer, with a new seed. A unit that draws calls this once, in `__init__`."""
        cast(nn.Module, self).register_buffer("draw_state", fresh_state(device))

    def reset_draws(self) -> None:
        """A new seed, if there is a buffer already."""
        if "draw_state" in cast(nn.Module, self)._buffers:
            self.draw_state = fresh_state(self.draw_state.device)

    def draw_key(self) -> Tensor:
        """32 random bits for this forward (an int64 of shape ()). Advances the count, except in a recomputation."""
        return next_key(self.draw_state)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        state = cast(nn.Module, self)._buffers.get("draw_state")
        super()._apply(fn, recurse)  # type: ignore[misc]
        if state is not None and state.is_meta and not self.draw_state.is_meta:  # `to_empty` initialises nothing
            self.draw_state = fresh_state(self.draw_state.device)
        return self

    def _load_from_state_dict(self, state: Any, prefix: str, local: Any, strict: bool, *lists: Any) -> None:
        """Load. A plain convolution's checkpoint has no draws, so this layer then keeps its own."""
        name = prefix + "draw_state"
        own, given = cast(nn.Module, self)._buffers.get("draw_state"), name in state
        kept = None if own is None else own.clone()
        super()._load_from_state_dict(state, prefix, local, strict, *lists)  # type: ignore[misc]
        missing = lists[0]
        if kept is not None and not given and prefix + "weight" not in missing:
            device = cast(Tensor, cast(Any, self).weight).device
            self.draw_state = fresh_state(device) if kept.is_meta else kept.to(device)
            if name in missing:
                missing.remove(name)


def fresh_state(device: torch.device) -> Tensor:
    """(seed, count = 0), the seed from torch's CPU generator so that every device draws the same."""
    seed = torch.randint(2**62, (1,), device="cpu")
    return torch.cat([seed, torch.zeros_like(seed)]).to(device)


def next_key(state: Tensor) -> Tensor:
    """The hash of (seed, count) as 32 bits in an int64 of shape (). Raises the count, except in a recomputation."""
    seed, count = state.unbind()
    if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
        count = count - 1  # checkpointing recomputes a forward inside the backward pass: the same draw again
    else:
        count = count.clone()
        state[1] += 1
    hashed = mix((count & _MASK) ^ (seed & _MASK))
    return mix((hashed + ((seed >> 32) & _MASK)) & _MASK)


def uniform(key: Tensor, like: Tensor) -> Tensor:
    """One number from [0, 1) for each element of `like`, of its shape, in float32 (24 random bits each).

    Element i has the hash of i and the key. Elements are numbered in (N, C, H, W) order, whatever the memory format.
    """
    index = torch.arange(like.numel(), device=like.device).reshape(like.shape)
    return (mix(mix(index & _MASK) ^ key) >> 8).to(torch.float32) * 2.0**-24


def mix(bits: Tensor) -> Tensor:
    """Mix 32 bits held in int64 (multiply and xor-shift). No product leaves the int64 range."""
    bits = ((bits ^ (bits >> 16)) * 0x7FEB352D) & _MASK
    bits = ((bits ^ (bits >> 15)) * 0x297A2D39) & _MASK
    return bits ^ (bits >> 16)
