"""The output of the verbs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .failure import Failure

if TYPE_CHECKING:
    import typer

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
    """Print the tables, then the path of the report."""
    from rich.console import Console

    from ..lab.report import robustness_table, terminal_table

    console = Console(soft_wrap=False)
    console.print(terminal_table(rows))
    if (robustness := robustness_table(rows)) is not None:
        console.print()
        console.print(robustness)
    print(f"report: {page}")


def fail_if_nothing_finished(rows: Sequence[StoredTrial], lab: Path) -> None:
    """Raise if every training of a comparison failed, with the reason."""
    failed = [row for row in rows if row.state == "failed"]
    if failed and len(failed) == len(rows):
        lines = (failed[0].traceback or "").strip().splitlines() or ["no reason recorded"]
        raise Failure(
            f"error: all {len(failed)} trials failed, the first with: {lines[-1]}; the report has the tracebacks; "
            "repair the cause and add --retry-failed"
        )
