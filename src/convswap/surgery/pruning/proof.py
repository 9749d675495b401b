"""The proof of a removal: the narrow network computes what the wide one does when the removed channels read as zero.

torch-pruning's dependency graph names the layers that must change together. Where it misreads an operation (channels
padded, shuffled, normalised together), the narrow network fails or computes something else. The proof finds that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import SurgeryError, first_line
from ..compare import largest_difference, outputs_of, precision_of, rounding
from ..copying import copy_model
from ..inputs import Inputs
from ..plan import Skip
from .groups import ChannelGroup
from .narrow import Narrowing, perform_prune

Removed = Mapping[int, Sequence[int]]
"""By the index of a group, the elements that go."""


def narrowings(model: nn.Module, groups: Sequence[ChannelGroup], removed: Removed) -> list[Narrowing]:
    """What every layer keeps when these elements go, in the order of the model's modules."""
    gone: dict[str, tuple[set[int], set[int]]] = {}
    for index, elements in removed.items():
        for member in groups[index].members if elements else ():
            inputs, outputs = gone.setdefault(member.path, (set(), set()))
            channels = {channel for element in elements for channel in member.places[element]}
            if member.side != "out":
                inputs |= channels
            if member.side != "in":
                outputs |= channels
    found: list[Narrowing] = []
    for path, module in model.named_modules():
        if path in gone:
            inputs, outputs = gone[path]
            found.append((path, _kept(module, "in", inputs), _kept(module, "out", outputs)))
    return found


def _kept(module: nn.Module, side: str, gone: set[int]) -> list[int] | None:
    if not gone:
        return None
    return [channel for channel in range(channels_of(module, side)) if channel not in gone]


def channels_of(module: Any, side: str) -> int:
    """The number of input or output channels of a layer that can be narrowed."""
    names = (f"{side}_channels", f"{side}_features", "num_features", "num_parameters")
    return int(next(getattr(module, name) for name in names if hasattr(module, name)))


def difference_of(model: nn.Module, groups: Sequence[ChannelGroup], removed: Removed, example: Inputs) -> float:
    """The largest relative difference between the narrow network and the wide one with these channels read as zero.

    Both run in float64, or in the model's precision where it refuses float64.

    Raises:
        SurgeryError: the narrow network does not run.
    """
    wide, inputs = _in_double(model, example)
    narrow = copy_model(wide)
    try:
        perform_prune(narrow, {"narrow": narrowings(wide, groups, removed)})
        found = outputs_of(narrow, inputs)
    except Exception as error:
        raise SurgeryError(f"the narrow network does not run: {first_line(error)}") from error
    with _reading_zero(wide, groups, removed):
        expected = outputs_of(wide, inputs)
    return largest_difference(expected, found)[0]


def _in_double(model: nn.Module, example: Inputs) -> tuple[nn.Module, Inputs]:
    twin, inputs = copy_model(model).double(), example.cast(torch.float64)
    try:
        outputs_of(twin, inputs)
    except Exception:  # the model casts by itself, or has an operator without float64
        return copy_model(model), example.cast(precision_of(model, example))
    return twin, inputs


@contextmanager
def _reading_zero(model: nn.Module, groups: Sequence[ChannelGroup], removed: Removed) -> Iterator[None]:
    """Let every reader of the removed channels see zeros there."""
    gone: dict[str, set[int]] = {}
    for index, elements in removed.items():
        for member in groups[index].readers:
            gone.setdefault(member.path, set()).update(c for element in elements for c in member.places[element])
    handles = [
        model.get_submodule(path).register_forward_pre_hook(_zeros(sorted(channels)))
        for path, channels in gone.items()
        if channels
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _zeros(channels: list[int]) -> Any:
    def hook(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        x: Tensor = arguments[0]
        dim = x.dim() - 1 if isinstance(module, nn.Linear) else x.dim() - 3
        index = torch.tensor(channels, dtype=torch.long, device=x.device)
        return (x.index_fill(dim, index, 0), *arguments[1:])

    return hook


def sound_groups(
    model: nn.Module, groups: Sequence[ChannelGroup], example: Inputs
) -> tuple[list[ChannelGroup], list[Skip]]:
    """The groups whose removal is what it should be, tried on two elements of each, and the others with the reason."""
    limit = rounding(precision_of(*_in_double(model, example)))
    if not groups or _problem(model, groups, _trial(groups), example, limit) is None:
        return list(groups), []
    sound, skipped = [], []
    for group in groups:
        problem = _problem(model, [group], _trial([group]), example, limit)
        if problem is None:
            sound.append(group)
        else:
            skipped.append(Skip(group.path, problem))
    return sound, skipped


def _trial(groups: Sequence[ChannelGroup]) -> dict[int, list[int]]:
    """The second element of every group and, if enough are left, the last."""
    return {i: [1] if group.size < 4 else [1, group.size - 1] for i, group in enumerate(groups)}


def _problem(
    model: nn.Module, groups: Sequence[ChannelGroup], removed: Removed, example: Inputs, limit: float
) -> str | None:
    try:
        difference = difference_of(model, groups, removed, example)
    except SurgeryError as error:
        return str(error)
    if difference > limit:
        return f"without two of them the others change too (by {difference:.0e}): they do not stand alone"
    return None
