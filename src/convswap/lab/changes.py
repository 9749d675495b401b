"""Saying why a lab trains again what it seems to have trained: its data are no longer the same."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from .store import STORE_FILE, Store
from .trial import Trial


def tell_changes(lab_dir: str | Path, trials: Sequence[Trial], quiet: bool = False) -> None:
    """Print one line on stderr if the lab holds trials on data of the same name that had another content.

    Raises:
        StoreError: the lab is damaged or of another version.
    """
    said = changed_data(lab_dir, trials)
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
