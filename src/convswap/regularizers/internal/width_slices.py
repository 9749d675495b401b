"""Sub-networks of a smaller width that share their parameters with the network: each layer's first channels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from ...surgery.copying import copy_model
from ...surgery.macs import meta_copy
from ...surgery.pruning.groups import ChannelGroup, find_groups
from ...surgery.pruning.narrow import why_not_narrow
from ...surgery.pruning.proof import narrowings, sound_groups
from ...surgery.sites import all_paths, replace
from ...units.contract.registry import spec_of
from .attaching import without_methods
from .narrowing import Take, narrowed, whole
from .places import Places

_HELP = "stochastic_depth needs no width"
_MOST_KEPT = 256  # sub-networks whose structure is kept: they hold shapes, no weights


def sliced_width(channels: int, width: float) -> int:
    """The number of channels of a layer at a width: rounded, and one more where rounding took a tenth away.

    >>> sliced_width(16, 0.9), sliced_width(24, 0.8)
    (14, 19)
    """
    number = int(channels * width + 0.5)
    return number + 1 if number < 0.9 * channels * width else max(1, number)


@dataclass(frozen=True)
class SubNetwork:
    """A sub-network.

    Attributes:
        structure: its modules, whose parameters have no memory.
        slices: what it takes of each parameter of the network.
        source: the network's parameters.
    """

    structure: nn.Module
    slices: tuple[tuple[str, Take], ...]
    source: dict[str, nn.Parameter]

    def __call__(self, images: Tensor) -> Tensor:
        """The logits. The gradients go to the parameters of the network itself."""
        own = {name: take(self.source[name]) for name, take in self.slices}
        logits: Tensor = functional_call(self.structure, own, (images,))
        return logits


class Widths:
    """The sub-networks of one network, by width.

    Batch norms of sub-networks normalise by the batch and keep no statistics: those belong to the whole network.

    Args:
        places: of the network.

    Raises:
        UsageError: a layer has no channels that could be left out one by one (it is named), or none stand alone.
    """

    def __init__(self, places: Places) -> None:
        self.places = places
        self.model = places.model
        for site in places.sites.values():
            reason = why_not_narrow(site.module)
            if reason is not None:
                spec = spec_of(site.module)
                unit = "" if spec is None else f" (unit {spec.name!r})"
                raise places.refuse(
                    f"has no width to slice at {site.path or 'its only layer'}: it {reason}{unit}",
                    "use a unit whose channels can be left out one by one",
                )
        self.base = without_methods(copy_model(self.model)).eval().requires_grad_(True)
        self.groups = self._groups()
        self._kept: dict[tuple[int, ...], SubNetwork] = {}

    def _groups(self) -> list[ChannelGroup]:
        found, skipped = find_groups(self.base, self.places.inputs)
        found, unsound = sound_groups(self.base, found, self.places.inputs)
        if not found:
            reasons = "; ".join(f"{skip.path}: {skip.reason}" for skip in [*skipped, *unsound][:2])
            raise self.places.refuse(f"has no channels that stand alone ({reasons})", _HELP)
        return found

    def at(self, width: float) -> SubNetwork:
        """The sub-network of a width."""
        kept = tuple(sliced_width(group.size, width) for group in self.groups)
        if kept not in self._kept:
            while len(self._kept) >= _MOST_KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[kept] = self._build(kept)
        return self._kept[kept]

    def _build(self, kept: tuple[int, ...]) -> SubNetwork:
        removed = {i: range(kept[i], group.size) for i, group in enumerate(self.groups) if kept[i] < group.size}
        structure = meta_copy(self.base).train()
        taken: dict[str, Take] = {}
        for path, inputs, outputs in narrowings(self.base, self.groups, removed):
            layer = self.base.get_submodule(path)
            narrow, own = narrowed(layer, inputs, outputs)
            if own is None:
                raise self.places.refuse(
                    f"has a {type(layer).__name__} at {path} that changes values as it narrows", _HELP
                )
            replace(structure, all_paths(structure, structure.get_submodule(path)), narrow)
            taken |= {f"{path}.{name}": take for name, take in own.items()}
        _use_batch_statistics(structure)
        buffers = dict(self.base.named_buffers())
        for path, module in structure.named_modules():
            for name, buffer in module._buffers.items():
                if buffer is not None and buffer.is_meta:
                    module._buffers[name] = buffers[f"{path}.{name}" if path else name]
        names = [name for name, _ in structure.named_parameters()]
        slices = tuple((name, taken.get(name, whole)) for name in names)
        return SubNetwork(structure, slices, dict(self.model.named_parameters()))


def _use_batch_statistics(structure: nn.Module) -> None:
    for module in structure.modules():
        if isinstance(module, _BatchNorm):
            module.train()
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
