"""Running a grid of trials: skip finished trials, resume stopped ones, record failures and continue."""

from __future__ import annotations

import gc
import logging
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import check_choice
from ..files import disk_is_full, full_disk_error
from ..train.interrupts import deferred_interrupt, requests_interrupt
from .axis import Axis, note_axis
from .changes import changed_code
from .progress import GridProgress
from .run import MODEL, load_trial_data, run_trial
from .store import STORE_FILE, Store, StoredTrial
from .trial import Trial

if TYPE_CHECKING:
    from torch import nn

    from ..data import Data

TRIALS = "trials"
_log = logging.getLogger("convswap")


@dataclass(frozen=True)
class Outcome:
    """The outcome of an attempt: a result, or the traceback of its failure and the failure in one line."""

    result: dict[str, Any] | None = None
    traceback: str | None = None
    reason: str = ""


Attempt = Callable[[Trial, str], Outcome]
Begin = Callable[[Trial], str]
Engine = Callable[[Sequence[Trial], Begin, Attempt], Iterator[tuple[Trial, Outcome]]]


def _serial(todo: Sequence[Trial], begin: Begin, attempt: Attempt) -> Iterator[tuple[Trial, Outcome]]:
    """One trial after the other, in this process."""
    for trial in todo:
        yield trial, attempt(trial, begin(trial))


# An engine calls begin(trial) in this process when the trial starts, attempt(trial, its label) anywhere, and hands
# back each outcome as it comes. It never touches the store.
ENGINES: dict[str, Engine] = {"serial": _serial}


def run_grid(
    trials: Sequence[Trial],
    lab_dir: str | Path,
    *,
    engine: str = "serial",
    data_root: str | Path | None = None,
    device: str = "auto",
    skip_unreadable: bool = False,
    retry_failed: bool = False,
    progress: bool = True,
    axis: Axis | None = None,
) -> list[StoredTrial]:
    """Run trials in a lab and return their rows, in the order given.

    Finished trials are not run again. Stopped trials resume from their last epoch. A failed trial is recorded with its
    traceback, and the others continue. It is tried again, from its last checkpoint, only on request. Ctrl-C, SIGTERM
    or SIGHUP marks the running trial as interrupted and is raised again, with a note on how to resume. Where a model's
    code has changed since a finished trial, the model is trained again, and a warning says so.

    Args:
        trials: the grid. A trial that is listed twice runs once.
        lab_dir: the lab's folder, created when needed.
        engine: `"serial"`.
        data_root: the folder of the data sets, see `load_data`.
        device: see `convswap.train.fit`.
        skip_unreadable: see `load_data`.
        retry_failed: run trials that failed before again.
        progress: one line per trial on stderr, and a bar for the running one on a terminal.
        axis: what varies, if not the unit. It is noted in the lab, so that `summarize` compares along it.

    Raises:
        UsageError: the engine is unknown.
        StoreError: the lab is damaged, of another version or in use, or the disk is full.
    """
    check_choice("engine", engine, ENGINES)
    lab = Path(lab_dir)
    grid = list({trial.id: trial for trial in trials}.values())
    with Store(lab / STORE_FILE) as store:
        if axis is not None:
            note_axis(lab, axis)
        todo = _prepare(store, grid, retry_failed)
        report = GridProgress(grid, todo, progress, axis)
        _say_what_is_done(store, report, grid, todo)
        attempt = _Attempt(lab, data_root, device, skip_unreadable, progress and sys.stderr.isatty())
        begin = partial(_begin, store, report)
        with requests_interrupt(), _mark_interrupted(store, lab):
            for trial, outcome in ENGINES[engine](todo, begin, attempt):
                _record(store, report, trial, outcome)
        return [store.get(trial.id) for trial in trials]


def _prepare(store: Store, grid: Sequence[Trial], retry_failed: bool) -> list[Trial]:
    """Enter the grid in the store, and pick the trials to run."""
    for row in store.rows():
        if row.state == "running":  # its process is dead: this one holds the lock
            store.interrupt(row.id)
    for trial in grid:
        store.add(trial)
    skipped = {"finished"} if retry_failed else {"finished", "failed"}
    todo = [trial for trial in grid if store.get(trial.id).state not in skipped]
    for line in changed_code(store.rows(), [trial for trial in todo if store.get(trial.id).state == "pending"]):
        _log.warning("%s", line)
    return todo


def _say_what_is_done(store: Store, report: GridProgress, grid: Sequence[Trial], todo: Sequence[Trial]) -> None:
    """Learn from the finished trials how long one takes, and say which trials will not run."""
    finished = failed = 0
    for trial in grid:
        row = store.get(trial.id)
        if row.result is not None:
            finished += 1
            report.known(trial, row.result["seconds"])
        failed += row.state == "failed" and trial not in todo
    if finished:
        report.say(f"{finished} of {len(grid)} trials are already finished")
    if failed:
        report.say(f"{failed} of {len(grid)} trials failed before and are left out; --retry-failed tries them again")


def _begin(store: Store, report: GridProgress, trial: Trial) -> str:
    store.start(trial.id)
    return f"{report.label(trial)}, epoch"


def _record(store: Store, report: GridProgress, trial: Trial, outcome: Outcome) -> None:
    if outcome.result is None:
        store.fail(trial.id, outcome.traceback or "")
        report.done(trial, f"failed: {outcome.reason}")
    else:
        store.finish(trial.id, outcome.result)
        seconds = outcome.result["seconds"]
        report.known(trial, seconds)
        report.done(trial, f"{outcome.result['test_accuracy']:.2%} in {seconds:.0f} s")


class _Attempt:
    """Runs a trial and turns its failure into an outcome. Only a full disk stops the grid."""

    def __init__(
        self, lab: Path, data_root: str | Path | None, device: str, skip_unreadable: bool, progress: bool
    ) -> None:
        self.lab, self.data_root, self.device = lab, data_root, device
        self.skip_unreadable, self.progress = skip_unreadable, progress
        self.loaded: tuple[tuple[str, int | None], Data] | None = None

    def __call__(self, trial: Trial, label: str) -> Outcome:
        folder = self.lab / TRIALS / trial.id
        try:
            return Outcome(
                run_trial(
                    trial,
                    folder,
                    data=self._data(trial),
                    device=self.device,
                    progress=self.progress,
                    label=label,
                )
            )
        except Exception as error:
            if disk_is_full(error, self.lab):
                raise full_disk_error(folder) from error
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            outcome = Outcome(traceback=traceback.format_exc(), reason=reason)
        # Outside the handler the exception is gone, and with it the failed model.
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        return outcome

    def _data(self, trial: Trial) -> Data:
        """The trial's data, kept for the next trial."""
        key = (trial.data_fingerprint, trial.image_size)
        if self.loaded is None or self.loaded[0] != key:
            self.loaded = None  # never two data sets in memory
            self.loaded = (key, load_trial_data(trial, self.data_root, self.skip_unreadable, cache=self.lab))
        return self.loaded[1]


def load_trained(lab: Path, stored: StoredTrial) -> nn.Module:
    """The network of a finished trial, in eval mode.

    Raises:
        StoreError: the network cannot be read.
    """
    from ..models import load

    # whoever filled this lab named the model, even if it is a function of their own
    return load(lab / TRIALS / stored.id / MODEL, constructor=stored.trial.model).eval()


@contextmanager
def _mark_interrupted(store: Store, lab: Path) -> Iterator[None]:
    """Leave no trial marked as running, whatever stops the grid. Whoever stopped the grid is told how to resume."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception):
            error.add_note(f"run the same command again to resume from the last epoch; everything so far is in {lab}")
        with deferred_interrupt():  # a second Ctrl-C waits until the first is recorded
            _interrupt_running(store, error)
        raise


def _interrupt_running(store: Store, error: BaseException) -> None:
    try:
        for row in store.rows():
            if row.state == "running":
                store.interrupt(row.id)
    except (
        Exception
    ) as second:  # on a full disk this write fails, too; the next run finds the trial running and resumes it
        error.add_note(f"the store could not be updated: {second}")
