"""The one table all scores are computed from: the predicted class of every image in every variant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import UsageError, unknown_name


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predicted classes by image and variant.

    Attributes:
        labels: the right classes, int64 (N,).
        classes: the predicted ones, int64 (N, V).
        variants: names of the V columns; `"clean"` is the unperturbed one by custom.
        logits: by variant, (N, classes) float32, for those they were asked for.
    """

    labels: Tensor
    classes: Tensor
    variants: tuple[str, ...]
    logits: dict[str, Tensor]

    def __post_init__(self) -> None:
        if self.classes.shape != (len(self.labels), len(self.variants)):
            raise UsageError(
                f"classes of shape {tuple(self.classes.shape)} are not allowed for {len(self.labels)} labels and "
                f"{len(self.variants)} variants"
            )
        if len(set(self.variants)) != len(self.variants):
            raise UsageError("variants names one column twice; give every column its own name")

    def __len__(self) -> int:
        return len(self.labels)

    def column(self, variant: str) -> Tensor:
        """The predictions of one variant, (N,).

        Raises:
            UsageError: there is no such variant.
        """
        if variant not in self.variants:
            raise unknown_name("variant", variant, self.variants)
        return self.classes[:, self.variants.index(variant)]

    def columns(self, variants: Iterable[str]) -> Tensor:
        """The predictions of several variants, (N, len(variants))."""
        return torch.stack([self.column(variant) for variant in variants], 1)

    def correct(self, variant: str) -> Tensor:
        """Which images are right, bool (N,)."""
        return self.column(variant) == self.labels

    def accuracy(self, variant: str) -> float:
        """Fraction of right predictions."""
        return float(self.correct(variant).double().mean())

    def error(self, variant: str) -> float:
        """Fraction of wrong predictions."""
        return 1 - self.accuracy(variant)

    def changed(self, variant: str, reference: str = "clean") -> float:
        """Fraction of predictions that differ from those of the reference, right or wrong.

        Times 100 it is the percentage of changed predictions (POCP) of the Min-Nets paper.
        """
        return float((self.column(variant) != self.column(reference)).double().mean())

    def as_dict(self) -> dict[str, Any]:
        """Labels and predictions as plain lists for JSON; logits are left out."""
        return {
            "labels": self.labels.tolist(),
            "variants": dict(zip(self.variants, self.classes.T.tolist(), strict=True)),
        }

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> Predictions:
        """The table that `as_dict` wrote."""
        labels = torch.tensor(saved["labels"], dtype=torch.int64)
        rows = [torch.tensor(row, dtype=torch.int64) for row in saved["variants"].values()]
        classes = torch.stack(rows, 1) if rows else torch.empty(len(labels), 0, dtype=torch.int64)
        return cls(labels, classes, tuple(saved["variants"]), {})


def joined(tables: Sequence[Predictions]) -> Predictions:
    """Tables of the same images side by side.

    Raises:
        UsageError: there is none, or their labels differ.
    """
    if not tables:
        raise UsageError("tables=[] has nothing to join; give at least one")
    first = tables[0]
    if any(not torch.equal(table.labels, first.labels) for table in tables):
        raise UsageError("tables of different images cannot be joined; their labels differ")
    return Predictions(
        first.labels,
        torch.cat([table.classes for table in tables], 1),
        tuple(name for table in tables for name in table.variants),
        {name: logits for table in tables for name, logits in table.logits.items()},
    )
