"""The plan of a pruning as data, and how it prints."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from ..plan import Skip, text_table
from .importance import CRITERIA


@dataclass(frozen=True)
class PrunedLayer:
    """One group of channels that go together.

    Attributes:
        path: the first layer that makes them.
        tied: further layers that make the same channels (a residual stage).
        readers: how many layers read them.
        channels: how many there are.
        kept: how many stay.
        rank: the effective rank of the gradients of the outgoing weights, None for other criteria.
    """

    path: str
    tied: tuple[str, ...]
    readers: int
    channels: int
    kept: int
    rank: int | None = None

    @property
    def redundancy(self) -> float | None:
        """1 - rank / channels."""
        return None if self.rank is None else 1 - self.rank / self.channels


@dataclass(frozen=True)
class Cap:
    """What may go without passing any layer's effective rank: the network's greatest redundancy.

    Attributes:
        macs: the share of the MACs that stays at the cap.
        parameters: the share of the parameters that stays.
        tau: the share of the eigenvalues' sum that the rank leaves out.
    """

    macs: float
    parameters: float
    tau: float

    def __str__(self) -> str:
        return (
            f"the network's cap (tau={self.tau:g}): down to {self.macs:.1%} of the MACs or {self.parameters:.1%} of "
            "the parameters, every layer at its rank"
        )


@dataclass(frozen=True)
class Speed:
    """What was measured for a target of latency.

    Attributes:
        before_ms, after_ms: milliseconds of a forward pass on the example, in turns.
        images: of the example.
        threads: of torch.
        noise: why the machine was too noisy for these figures to be trusted, or None.
    """

    before_ms: float
    after_ms: float
    images: int
    threads: int
    noise: str | None

    def __str__(self) -> str:
        text = (
            f"latency {self.before_ms:.2f} -> {self.after_ms:.2f} ms ({self.after_ms / self.before_ms:.1%}) for "
            f"{self.images} images on {self.threads} thread{'s' if self.threads > 1 else ''}"
        )
        return text if self.noise is None else f"{text}; not to be trusted: {self.noise}"


@dataclass(frozen=True)
class PruneReport:
    """The data of a pruning plan, without the models.

    Attributes:
        criterion: what chose the channels.
        target: the share to keep, as text.
        layers: the groups of channels.
        skipped: layers whose channels stay, and why.
        cap: for gradient redundancy, the cap.
        macs_before, macs_after: multiply-accumulates per image.
        parameters_before, parameters_after: numbers of parameters.
        compensated: how many layers took over what removed channels contributed.
        difference: how far the narrow network (before that) is from the wide one whose removed channels read as zero:
            the largest relative difference of the outputs. It proves that nothing else was touched.
        samples: number of calibration images, 0 without.
        narrow: `[path, kept input channels, kept output channels]` of every layer that loses some (None: keeps all).
        speed: for a target of latency, the times measured.
    """

    criterion: str
    target: str
    layers: tuple[PrunedLayer, ...]
    skipped: tuple[Skip, ...]
    cap: Cap | None
    macs_before: int
    macs_after: int
    parameters_before: int
    parameters_after: int
    compensated: int
    difference: float
    samples: int
    narrow: tuple[tuple[str, list[int] | None, list[int] | None], ...]
    speed: Speed | None

    def as_dict(self) -> dict[str, Any]:
        """The report as plain lists and dictionaries."""
        return {name: value for name, value in asdict(self).items() if name in PruneReport.__dataclass_fields__}

    def to_json(self) -> str:
        """The report as JSON."""
        return json.dumps(self.as_dict(), indent=2)

    def __str__(self) -> str:
        paper = CRITERIA[self.criterion].paper
        title = f"prune by {self.criterion}{f' ({paper})' if paper else ''} to {self.target}"
        if self.samples:
            title += f", {self.samples:,} calibration images"
        lines = [title, self._table()]
        if self.cap is not None:
            lines.append(str(self.cap))
        lines += [
            f"MACs {self.macs_before:,} -> {self.macs_after:,} ({self.macs_after / self.macs_before:.1%}), parameters "
            f"{self.parameters_before:,} -> {self.parameters_after:,} "
            f"({self.parameters_after / self.parameters_before:.1%})",
            f"the narrow network is the wide one without these channels: largest relative difference "
            f"{self.difference:.1e}",
        ]
        if self.speed is not None:
            lines.append(str(self.speed))
        if self.compensated:
            lines.append(f"compensated by folding: {self.compensated} layers")
        if self.skipped:
            lines.append(f"left alone: {len(self.skipped)}")
            lines += [f"  {skip.path or '(the model)'}: {skip.reason}" for skip in self.skipped]
        return "\n".join(lines)

    def _table(self) -> str:
        ranked = any(layer.rank is not None for layer in self.layers)
        header = ["channels made by", "read by", "channels", *(["rank", "redundancy"] if ranked else []), "kept"]
        rows = []
        for layer in self.layers:
            name = layer.path + (f" (+{len(layer.tied)} tied)" if layer.tied else "")
            measured = [str(layer.rank), f"{layer.redundancy:.0%}"] if ranked else []
            rows.append([name, str(layer.readers), str(layer.channels), *measured, str(layer.kept)])
        return text_table(header, rows, right=range(1, len(header)))
