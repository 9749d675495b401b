"""The output of the verbs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .failure import Failure
from .streams import console

if TYPE_CHECKING:
    import typer
    from torch import Tensor, nn

    from ..data import Data
    from ..lab import StoredTrial


def command_line(context: typer.Context) -> str:
    """The command as it was given, ready to be typed again."""
    return shlex.join(["convswap", *context.obj])


def tell_data(data: Data, quiet: bool = False) -> None:
    """Say on stderr, before anything is trained, what the data are."""
    if data.description is not None and not quiet:
        print(f"data: {data.description}", file=sys.stderr, flush=True)


def print_comparison(rows: Sequence[dict[str, Any]], page: Path) -> None:
    """Print the tables and what they say in words, then the path of the report."""
    from ..lab.report import in_words, robustness_table, terminal_table

    out = console(soft_wrap=False)
    out.print(terminal_table(rows))
    for sentence in in_words(rows):
        out.print(sentence, markup=False, highlight=False)
    if (robustness := robustness_table(rows)) is not None:
        out.print()
        out.print(robustness)
    print(f"report: {page}")


def print_latency(before: nn.Module, after: nn.Module, example: Tensor) -> None:
    """Measure two models in turns, and print both."""
    from ..surgery.latency import measure_latency

    found = measure_latency({"before": before, "after": after}, example)
    old, new = found["before"], found["after"]
    print(
        f"latency {old.median_ms:.2f} -> {new.median_ms:.2f} ms for {'x'.join(map(str, example.shape))} "
        f"(median of {new.repeats}, {new.threads} thread{'s' if new.threads > 1 else ''})"
    )


def print_accuracy(data: Data, before: nn.Module, after: nn.Module) -> None:
    """Measure the test accuracy of two models, and print both."""
    from ..train import evaluate

    old, new = (evaluate(model, data) for model in (before, after))
    changed = int((old.predictions != new.predictions).sum())
    print(
        f"test accuracy {old.accuracy:.2%} -> {new.accuracy:.2%}; "
        f"{changed} of {len(old.predictions)} predictions changed"
    )


def print_warnings(warnings: Sequence[str]) -> None:
    """Print what a reader of a result must know."""
    for warning in warnings:
        print(f"warning: {warning}")


def name_of(row: StoredTrial) -> str:
    """A trial in a few words: `resnet18 circle seed 0 (0f3a5d6c7b8e9a01)`."""
    return f"{row.trial.model} {row.trial.label()} seed {row.trial.seed} ({row.id})"


def print_troubles(rows: Iterable[StoredTrial]) -> None:
    """Print one line for each failed trial and for each warning of a finished one."""
    for row in rows:
        if row.state == "failed":
            print(f"failed: {name_of(row)}: {row.reason()}")
        print_warnings([f"{name_of(row)}: {text}" for text in (row.result or {}).get("warnings", ())])


def fail_if_any_failed(rows: Sequence[StoredTrial], lab: Path, *, allowed: bool) -> None:
    """Raise if trainings of a comparison failed. If `allowed`, only if all did.

    Args:
        rows: the comparison's trials.
        lab: its folder.
        allowed: the value of `--allow-failed`.
    """
    failed = [row for row in rows if row.state == "failed"]
    if not failed or (allowed and len(failed) < len(rows)):
        return
    forget = shlex.join(["convswap", "trials", str(lab), "--forget", failed[0].id])
    number = f"all {len(rows)} trials" if len(failed) == len(rows) else f"{len(failed)} of {len(rows)} trials"
    raise Failure(
        f"error: {number} failed, the first with: {failed[0].reason()}; the report has the tracebacks; repair the "
        f"cause and add --retry-failed, or drop a trial by {forget}"
    )
