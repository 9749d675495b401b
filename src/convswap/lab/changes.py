"""Saying why something is trained again that seems to be trained: its data or its code are no longer the same."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

from .mixed import is_mixed, short_id
from .store import STORE_FILE, Store, StoredTrial
from .trial import Trial, canonical_json


def tell_changes(lab_dir: str | Path, trials: Sequence[Trial], quiet: bool = False) -> None:
    """Print a line on stderr for data, and for each mixed plan, of a name that had another content in this lab.

    Raises:
        StoreError: the lab is damaged or of another version.
    """
    for said in (changed_data(lab_dir, trials), *changed_mixtures(lab_dir, trials)):
        if said and not quiet:
            print(said, file=sys.stderr, flush=True)


def changed_data(lab_dir: str | Path, trials: Sequence[Trial]) -> str:
    """The line of `tell_changes`, empty if nothing has changed."""
    place = Path(lab_dir) / STORE_FILE
    if not trials or not place.is_file():
        return ""
    new = trials[0]
    with Store(place, write=False) as store:
        rows = [row for row in store.rows() if row.trial.data == new.data]
    old = [row for row in rows if row.trial.data_options == new.data_options]
    if not old or any(row.trial.data_fingerprint == new.data_fingerprint for row in old):
        return ""
    times = [row.started for row in old if row.started is not None]
    since = f" since {datetime.fromtimestamp(max(times)):%Y-%m-%d %H:%M}" if times else ""
    kept = "1 trial on the old ones is" if len(old) == 1 else f"{len(old)} trials on the old ones are"
    return f"the data {new.data} have changed{since}: {kept} kept, and trained anew"


def changed_mixtures(lab_dir: str | Path, trials: Sequence[Trial]) -> list[str]:
    """One line for each mixed plan whose file has other entries than when the lab last trained a plan of its name."""
    place = Path(lab_dir) / STORE_FILE
    if not place.is_file():
        return []
    new = {trial.unit: trial.unit_options for trial in trials if is_mixed(trial.unit)}
    with Store(place, write=False) as store:
        known = [row.trial for row in store.rows()]
    lines = []
    for unit, options in new.items():
        old = [trial for trial in known if trial.unit == unit and trial.unit_options != options]
        if old and not any(trial.unit_options == options for trial in known):
            ids = ", ".join(dict.fromkeys(short_id(trial.unit_options) for trial in old))
            lines.append(f"{unit} has changed: it is {short_id(options)} now, trained anew beside {ids}")
    return lines


def changed_code(known: Iterable[StoredTrial], new: Iterable[Trial]) -> list[str]:
    """One line for each model of new trials that other finished trials trained as another network of the same name."""
    trained: dict[str, str] = {}
    for row in known:
        if row.state == "finished":
            trained.setdefault(_apart_from_network(row.trial), row.id)
    lines: dict[str, str] = {}
    for trial in new:
        if (other := trained.get(_apart_from_network(trial))) is not None:
            lines.setdefault(trial.model, changed_code_line(trial, other))
    return list(lines.values())


def _apart_from_network(trial: Trial) -> str:
    return canonical_json({name: value for name, value in trial.identity().items() if name != "network"})


def changed_code_line(trial: Trial, other: str) -> str:
    """Why a trial runs although another with the same words on the command line is finished."""
    return f"{trial.model} has changed since trial {other}: trained again"
