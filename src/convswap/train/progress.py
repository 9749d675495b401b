"""What a person sees while a model trains: a bar on a terminal, a line per epoch elsewhere, always on stderr."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Self


class Reporter:
    """Shows nothing. The base class of the reporters that show something."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def step(self) -> None:
        """One step is done."""

    def epoch(self, row: dict[str, Any]) -> None:
        """One epoch is done, with these metrics."""


def watched(row: dict[str, Any]) -> str:
    """The part that an epoch was evaluated on: `"validation"` where there is one, else `"test"`."""
    return "validation" if "validation_loss" in row else "test"


def summary(row: dict[str, Any], epochs: int) -> str:
    """The metrics of one epoch in one line."""
    name = watched(row)
    return (
        f"epoch {row['epoch']}/{epochs}  train loss {row['train_loss']:.4f}  "
        f"{name} loss {row[f'{name}_loss']:.4f}  {name} accuracy {row[f'{name}_accuracy']:.2%}  "
        f"{row['images_per_second']:,.0f} images/s  {row['seconds']:.1f} s"
    )


class LineReporter(Reporter):
    """One plain line per epoch, for logs and pipes."""

    def __init__(self, label: str, epochs: int) -> None:
        self.label, self.epochs = label, epochs

    def epoch(self, row: dict[str, Any]) -> None:
        """Print the line."""
        prefix = f"{self.label}  " if self.label else ""
        print(prefix + summary(row, self.epochs), file=sys.stderr, flush=True)


class BarReporter(Reporter):
    """A bar over all steps with the rate in images and the time left, which disappears at the end."""

    def __init__(self, label: str, epochs: int, *, steps: int, done: int, batch_size: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
        from rich.text import Text

        class Rate(ProgressColumn):
            def render(self, task: Task) -> Text:
                return Text(f"{task.speed * batch_size:,.0f} images/s" if task.speed else "")

        self.label, self.epochs = label or "train", epochs
        # Drawn twice a second: on a CPU the bar competes with the training.
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[last]}", markup=False),
            console=Console(stderr=True),
            refresh_per_second=2,
            transient=True,
        )
        text = f"{self.label} {done}/{epochs}"
        self.task = self.bar.add_task(text, total=epochs * steps, completed=done * steps, last="")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def step(self) -> None:
        """Move the bar on."""
        self.bar.advance(self.task)

    def epoch(self, row: dict[str, Any]) -> None:
        """Show the accuracy beside the bar."""
        text = f"{self.label} {row['epoch']}/{self.epochs}"
        name = watched(row)
        self.bar.update(self.task, description=text, last=f"{name} {row[f'{name}_accuracy']:.2%}")


def reporter_for(show: bool, label: str, epochs: int, *, steps: int, done: int, batch_size: int) -> Reporter:
    """The reporter that suits stderr, a terminal or not."""
    if not show:
        return Reporter()
    if sys.stderr.isatty():
        return BarReporter(label, epochs, steps=steps, done=done, batch_size=batch_size)
    return LineReporter(label, epochs)
