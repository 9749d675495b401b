"""The progress of a grid: one line per trial on stderr, with the time left."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .axis import Axis
from .trial import Trial


class GridProgress:
    """Counts trials and estimates the time left from the finished ones.

    Args:
        trials: the whole grid.
        todo: the trials that will run.
        show: whether to print at all.
        axis: what varies, if not the unit.
    """

    def __init__(self, trials: Sequence[Trial], todo: Sequence[Trial], show: bool, axis: Axis | None = None) -> None:
        self.total = len(trials)
        self.left = list(todo)
        self.show = show
        self.seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
        several = len({trial.model for trial in trials}) > 1
        self.names = {t.id: f"{t.model} {t.label()}" if several else t.label() for t in trials}
        if axis is not None:
            self.names = {t.id: f"{self.names[t.id]} {axis.variant_of(t) or ''}".rstrip() for t in trials}

    def known(self, trial: Trial, seconds: float) -> None:
        """Record how long a trial took."""
        self.seconds[_kind(trial)].append(seconds)

    def label(self, trial: Trial) -> str:
        """`trial 3/9 circle seed 0`."""
        number = self.total - len(self.left) + 1 + self.left.index(trial)
        return f"trial {number}/{self.total} {self.names[trial.id]} seed {trial.seed}"

    def done(self, trial: Trial, outcome: str) -> None:
        """Print a trial's line and remove the trial from those left."""
        text = f"{self.label(trial)}: {outcome}"
        self.left.remove(trial)
        left = self.time_left()
        self.say(f"{text}, about {left} left" if left else text)

    def time_left(self) -> str | None:
        """The time left, such as `1:05`, from the mean of trials of the same kind or of all. None if unknown or 0."""
        means = {kind: sum(values) / len(values) for kind, values in self.seconds.items()}
        if not self.left or not means:
            return None
        overall = sum(means.values()) / len(means)
        seconds = round(sum(means.get(_kind(trial), overall) for trial in self.left))
        hours, rest = divmod(seconds, 3600)
        return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"

    def say(self, text: str) -> None:
        """Print one line on stderr, so that stdout stays free for results."""
        if self.show:
            from rich.console import Console

            Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(text)


@contextmanager
def says_how_to_go_on(lab: Path, work: str) -> Iterator[None]:
    """Tell a user who stops `work` how to resume. `work` follows the trainings (`"with the pictures"`)."""
    try:
        yield
    except KeyboardInterrupt as error:
        error.add_note(
            f"all trainings are finished and in {lab}; run the same command again to continue {work}, or "
            f"convswap report {lab} to see what there is"
        )
        raise


def _kind(trial: Trial) -> tuple[str, str]:
    return trial.model, trial.label()
