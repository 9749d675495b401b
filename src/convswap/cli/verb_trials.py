"""`convswap trials`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from .saved import no_lab
from .streams import console

if TYPE_CHECKING:
    from ..lab import StoredTrial

NAME = "trials"
_SHORTEST = 4


def run(
    lab: Annotated[Path, typer.Argument(metavar="[LAB]", help="The lab's folder.")] = Path("convswap-lab"),
    forget: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Take a trial out of the tables; the start of its id is enough. Repeatable."),
    ] = None,
    remove_files: Annotated[
        bool, typer.Option("--remove-files", help="With --forget: delete the folder of the trial, too.")
    ] = False,
) -> None:
    """List the trials of a lab: state, unit, seed, accuracy, and why a failed one failed. Or forget some.

    A forgotten trial is no longer in tables and report. Its folder stays unless --remove-files is given, and the same
    comparison again reads a finished one back.

    \b
    Examples:
      convswap trials
      convswap trials lab/cifar --forget 0f3a5d6c
      convswap trials lab/cifar --forget 0f3a5d6c --remove-files
    """
    from ..lab import Store
    from ..lab.publish import publish
    from ..lab.store import STORE_FILE

    if not lab.exists():
        raise no_lab(lab)
    if remove_files and not forget:
        raise UsageError("--remove-files goes with --forget ID, which names the trial")
    if not forget:
        with Store(lab / STORE_FILE, write=False) as store:
            print_trials(store.rows())
        return
    with Store(lab / STORE_FILE) as store:
        chosen = [_chosen(store.rows(), id) for id in forget]
        for row in {row.id: row for row in chosen}.values():
            store.forget(row.id)
            _say(row, _folder(lab, row.id), remove_files)
    _, page = publish(lab)
    print(f"report: {page}")


def _folder(lab: Path, id: str) -> Path:
    from ..lab.runner import TRIALS

    return lab / TRIALS / id


def _chosen(rows: list[StoredTrial], id: str) -> StoredTrial:
    """The one trial whose id starts like this."""
    found = [row for row in rows if row.id.startswith(id.lower())]
    if len(id) < _SHORTEST or len(found) != 1:
        few = ", ".join(row.id for row in found[:3])
        wrong = "is no trial of this lab" if not found else f"may be {few}" + (", ..." if len(found) > 3 else "")
        wrong = f"is too short; give at least {_SHORTEST} digits" if len(id) < _SHORTEST else wrong
        raise UsageError(f"--forget {id}: {wrong}; convswap trials lists the ids")
    return found[0]


def _say(row: StoredTrial, folder: Path, remove: bool) -> None:
    if remove and folder.exists():
        shutil.rmtree(folder)
        print(f"forgot {row.id}, and deleted {folder}")
    else:
        print(f"forgot {row.id}" + (f"; its files stay in {folder}" if folder.exists() else ""))


def print_trials(rows: list[StoredTrial]) -> None:
    """The trials as a table, and the reasons of failures below it."""
    from rich.markup import escape
    from rich.table import Table

    from ..lab.report import text

    table = Table("id", "state", "model", "unit", "seed", "accuracy %")
    for column in table.columns[:2]:
        column.no_wrap = True
    for row in rows:
        accuracy = text.percent((row.result or {}).get("test_accuracy"))
        words = (row.trial.model, row.trial.label(), str(row.trial.seed), accuracy)
        table.add_row(row.id, row.state, *map(escape, words))
    console().print(table)
    for row in rows:
        if row.state == "failed":
            print(f"{row.id}: {row.reason()}")
