"""A target of latency: narrow networks timed in turns with the wide one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ...errors import SurgeryError, UsageError
from ..copying import copy_model
from ..inputs import Inputs
from ..latency import measure_latency
from .choosing import Choice, Target
from .narrow import perform_prune
from .proof import narrowings
from .report import Speed

RESOLUTION = 0.01
"""The search ends when the share of the MACs is known to this."""
REPEATS = 15


def choose_by_latency(
    share: float, choose_for: Callable[[Target], Choice], wide: nn.Module, example: Inputs
) -> tuple[Choice, Speed]:
    """The widest choice that takes at most this share of the wide network's time, found by halving the share of MACs.

    Args:
        share: of the time of a forward pass on the example.
        choose_for: the choice for a target of MACs. It raises a `UsageError` or `SurgeryError` where there is none.
        wide: the network before pruning.
        example: what is timed.

    Raises:
        SurgeryError: the narrowest choice is not fast enough.
    """
    low, high = 0.0, 1.0
    best: tuple[Choice, Speed] | None = None
    narrowest: Speed | None = None
    reason = ""
    while high - low > RESOLUTION:
        middle = (low + high) / 2
        try:
            choice = choose_for(Target("macs", middle))
        except (UsageError, SurgeryError) as error:
            low, reason = middle, str(error)
            continue
        speed = _time(wide, choice, example)
        if speed.after_ms <= share * speed.before_ms:
            best, low = (choice, speed), middle
        else:
            narrowest, high = speed, middle
    if best is not None:
        return best
    raise SurgeryError(
        f"latency={share:g} cannot be reached: "
        + (f"{narrowest.after_ms / narrowest.before_ms:.3g} remains at {high:.1%} of the MACs" if narrowest else "")
        + (f" ({reason})" if reason else "")
    )


def _time(wide: nn.Module, choice: Choice, example: Inputs) -> Speed:
    narrow = [list(each) for each in narrowings(wide, choice.groups, choice.removed)]
    small = perform_prune(copy_model(wide), {"kind": "prune", "narrow": narrow})
    threads = torch.get_num_threads()
    times = measure_latency({"wide": wide, "narrow": small}, example, threads=threads, repeats=REPEATS)
    noise = next((found.noise for found in times.values() if found.noise is not None), None)
    return Speed(times["wide"].median_ms, times["narrow"].median_ms, example.images, threads, noise)
