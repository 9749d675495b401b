"""The author's declarations about a unit: the fields of a registry row and their allowed values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

Kind = Literal["weight", "feature", "block"]
WarmStart = Literal["exact", "approximate", "none"]
Fusion = Literal["conv", "cheaper", "none"]
Replaces = Literal["convolution", "block", "stage", "stem"]
Placement = Literal["paper", "inferred"]
TrainEval = Literal["same", "batch_norm", "stochastic"]
Gradient = Literal["exact", "straight_through"]
LITERALS: dict[str, Any] = {
    "warm_start": WarmStart,
    "fusion": Fusion,
    "replaces": Replaces,
    "placement": Placement,
    "train_eval": TrainEval,
    "gradient": Gradient,
}


@dataclass(frozen=True)
class UnitRow:
    """The author's declarations about a unit.

    Attributes:
        name: registry name, snake case.
        paper: where it comes from, e.g. `"arXiv:2107.02451"`.
        year: of the paper.
        summary: one line.
        warm_start: what `from_conv` keeps: `"exact"` (the same function), `"approximate"`, or `"none"`. A block unit
            is always drawn fresh: `"none"`.
        fusion: what `fuse` gives: `"conv"` (a plain `nn.Conv2d`), `"cheaper"`, or `"none"`.
        replaces: what it stands for: a `"convolution"`, a residual `"block"`, a `"stage"` of blocks, or the `"stem"`
            (first convolution, BatchNorm, ReLU, max-pool).
        default_where: the selection `swap` uses when none is given.
        placement: `"paper"` when the paper says so, `"inferred"` when it is our reading.
        train_eval: does training compute what evaluation computes? `"same"`, `"batch_norm"` (batch statistics)
            or `"stochastic"` (random draws).
        variants: option sets that the contract tests run besides the defaults.
        no_weight_decay: parameter names (the last part) that recipes must not decay.
        constant_weight: the unit's `weight` is not a parameter but a buffer of constants, which neither a host's values
            nor a plain checkpoint can set.
        gradient: `"exact"` (the derivative of the forward pass), or `"straight_through"` (the forward pass has steps,
            and the backward pass is an estimator of its own).
        onnx: why the unit cannot be exported to ONNX; empty when it can.
    """

    name: str
    _: KW_ONLY
    paper: str
    year: int
    summary: str
    warm_start: WarmStart
    fusion: Fusion
    replaces: Replaces = "convolution"
    default_where: str = "spatial & !first"
    placement: Placement = "inferred"
    train_eval: TrainEval = "same"
    variants: tuple[Mapping[str, Any], ...] = ()
    no_weight_decay: Collection[str] = ()
    constant_weight: bool = False
    gradient: Gradient = "exact"
    onnx: str = ""
