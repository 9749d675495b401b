"""Pictures of what a lab's networks have learned, side by side for each model, kept in the lab for its report."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._version import __version__
from ..errors import StoreError, described
from .axis import read_axes
from .files import read_object, write_atomic
from .progress import says_how_to_go_on
from .report.svg import color
from .report.view import RowView, by_model, view_rows
from .run import trial_data
from .runner import load_trained
from .store import STORE_FILE, Store, StoredTrial
from .summary import summarize
from .trial import Trial

if TYPE_CHECKING:
    from torch import nn

    from ..data import Data
    from ..see.draw import Picture
    from ..see.page import Section

PICTURES_FILE = "pictures.json"
_IMAGES = 32
_MOST = 2_000_000
"""Characters of base64 on a page: a megabyte and a half of PNG."""
_KEYS = ("model", "version", "trials", "note", "figures", "table", "problems")

Group = dict[str, Any]


def read_pictures(lab_dir: str | Path) -> list[Group]:
    """The pictures that `make_pictures` kept, one group per model. Empty if none were made.

    The keys of a group are `model`, `version` (of convswap), `trials` (the id of the network shown under each name),
    `note`, `figures` (each with `title`, `note`, `alt` and `png` in base64), `table` (rows of cells, the header first)
    and `problems` (what could not be shown, and why).

    Raises:
        StoreError: the file is damaged.
    """
    path, fix = Path(lab_dir) / PICTURES_FILE, "delete it: the pictures are then made again"
    if not path.exists():
        return []
    groups = read_object(path, fix).get("groups")
    if not isinstance(groups, list) or any(not isinstance(g, dict) or not g.keys() >= set(_KEYS) for g in groups):
        raise StoreError(f"{path} is damaged (groups of pictures are missing or not whole); {fix}")
    return groups


def report_pictures(lab_dir: str | Path, trials: Iterable[StoredTrial]) -> list[Group]:
    """The groups of networks that are in the lab. Their `left_out` says why figures are missing, or is empty.

    A page should stay small enough to be sent. After a megabyte and a half of pictures, the pictures of further models
    are left out, and the page says so.

    Raises:
        StoreError: the file is damaged.
    """
    known = {stored.id for stored in trials if stored.state == "finished"}
    shown: list[Group] = []
    size = 0
    for group in read_pictures(lab_dir):
        if not known >= set(group["trials"].values()):
            continue
        size += sum(len(figure["png"]) for figure in group["figures"])
        fits = size <= _MOST or not shown
        left_out = "" if fits else f"Left out to keep this page small; its pictures are in {PICTURES_FILE}."
        shown.append({**group, "figures": group["figures"] if fits else [], "left_out": left_out})
    return shown


def make_pictures(
    lab_dir: str | Path, trials: Iterable[StoredTrial], data: Data, *, progress: bool = True
) -> list[Group]:
    """Compare what the networks of a lab have learned, one network per row of its summary, and keep the pictures.

    The first finished seed represents a row. A second seed of `conv` shows how similar two trainings of the same
    network are. Pictures of the same networks are not made again. The group's `problems` name each failure, and a
    failure does not affect the other pictures.

    Args:
        lab_dir: the lab's folder.
        trials: all trials of the lab on the same data as these are shown.
        data: the trials' data. Test images pass through the networks, normalised as in their training.
        progress: show progress on stderr.

    Returns:
        As `read_pictures`.

    Raises:
        StoreError: there is no lab, it is damaged, or the pictures cannot be written.
    """
    lab = Path(lab_dir)
    with Store(lab / STORE_FILE, write=False) as store:
        stored = {row.id: row for row in store.rows()}
    seen = {_data_of(one.trial) for one in trials}
    of_data = [one for one in stored.values() if _data_of(one.trial) in seen]
    groups = read_pictures(lab)
    for model, rows in by_model(view_rows(summarize(of_data, axes=read_axes(lab)))).items():
        chosen = _chosen(rows, stored)
        ids = {name: one.id for name, one in chosen.items()}
        if not chosen or any(g["trials"] == ids and g["version"] == __version__ and g["figures"] for g in groups):
            continue
        with _telling(f"pictures of {model}", lab, progress) as tell:
            group = _group(lab, model, rows, chosen, data, tell)
        groups = [g for g in groups if not set(g["trials"].values()) & set(ids.values())] + [group]
        write_atomic(lab / PICTURES_FILE, json.dumps({"groups": groups}, indent=1))
    return groups


def _data_of(trial: Trial) -> tuple[str, int | None]:
    return trial.data_fingerprint, trial.image_size


def _chosen(rows: Sequence[RowView], stored: Mapping[str, StoredTrial]) -> dict[str, StoredTrial]:
    """The first finished trial of each row and a second one of the baseline, by name, with the baseline first."""
    chosen: dict[str, StoredTrial] = {}
    for row in sorted(rows, key=lambda row: row.look):
        names = (row.label, _twin(row)) if row.is_baseline else (row.label,)
        chosen |= {name: stored[id] for name, id in zip(names, row.trial_ids, strict=False)}
    return chosen


def _twin(row: RowView) -> str:
    return f"{row.label} (other seed)"


def _group(
    lab: Path,
    model: str,
    rows: Sequence[RowView],
    chosen: Mapping[str, StoredTrial],
    data: Data,
    tell: Callable[[str], None],
) -> Group:
    problems: list[str] = []
    group: Group = {
        "model": model,
        "version": __version__,
        "trials": {name: one.id for name, one in chosen.items()},
        "note": "",
        "figures": [],
        "table": [],
        "problems": problems,
    }
    try:
        section = _section(lab, rows, chosen, data, tell, problems)
    except Exception as error:  # hours of training must not end without a report, which says what happened
        problems.append(f"there are no pictures: {described(error)}")
        return group
    tell("drawing")
    figures = [figure for picture in section.pictures if (figure := _figure(picture, problems)) is not None]
    return {**group, "note": section.note, "figures": figures, "table": [list(cells) for cells in section.table or ()]}


def _section(
    lab: Path,
    rows: Sequence[RowView],
    chosen: Mapping[str, StoredTrial],
    data: Data,
    tell: Callable[[str], None],
    problems: list[str],
) -> Section:
    import torch

    from ..see import compare_models, comparison, sample_images

    networks: dict[str, nn.Module] = {}
    for name, one in chosen.items():
        tell(f"loading {name}")
        networks[name] = load_trained(lab, one)
    twins = {name: networks.pop(name) for row in rows if row.is_baseline and (name := _twin(row)) in networks}
    own = trial_data(next(iter(chosen.values())).trial, data)
    mean, std = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (own.mean, own.std))
    images = (sample_images(own, _IMAGES) - mean) / std
    found = compare_models(networks, images, twins=twins, tell=tell)
    problems += found.problems
    return comparison(found, {row.label: color(row.look) for row in rows})


def _figure(picture: Picture, problems: list[str]) -> dict[str, str] | None:
    try:
        png = picture.png()
    except Exception as error:  # the report names the failure and shows the other pictures
        problems.append(f"{picture.title} could not be drawn: {described(error)}")
        return None
    return {"title": picture.title, "note": picture.note, "alt": picture.alt, "png": base64.b64encode(png).decode()}


@contextmanager
def _telling(what: str, lab: Path, progress: bool) -> Iterator[Callable[[str], None]]:
    """Show on stderr what is being done and, at the end, how long it took. If stopped, say how to resume."""
    from rich.console import Console
    from rich.markup import escape

    console, begun = Console(stderr=True, highlight=False, soft_wrap=True, quiet=not progress), time.perf_counter()
    with says_how_to_go_on(lab, "with the pictures"), console.status(escape(what)) as status:
        yield lambda text: status.update(escape(f"{what}: {text}"))
    console.print(escape(f"{what} made in {time.perf_counter() - begun:.0f} s"))
