"""What a training leaves besides the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class FitResult:
    """The result of a training.

    Attributes:
        history: one dict per epoch, as in metrics.jsonl. With a validation part, it holds `validation_loss` and
            `validation_accuracy`, and only the last epoch has `test_loss` and `test_accuracy`.
        test_accuracy: after the last epoch, never the best epoch's.
        test_loss: after the last epoch.
        seconds: over all epochs, including those before a resume.
        images_per_second: training speed over all epochs, without evaluation.
        resumed_after: number of epochs that a checkpoint saved, 0 if there was none.
        precision: `"bf16"` or `"fp32"`, also where the recipe says `"auto"`.
        device: where the last epoch ran.
        processes: number of processes.
        warnings: what a reader of the result must know, such as a loss that diverged without becoming infinite.
    """

    history: list[dict[str, Any]]
    test_accuracy: float
    test_loss: float
    seconds: float
    images_per_second: float
    resumed_after: int
    precision: str
    device: str
    processes: int
    warnings: tuple[str, ...] = ()
