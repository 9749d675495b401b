"""From the content of a lab to its summary rows and `report.html`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .axis import read_axes
from .decide import MARGIN
from .files import write_atomic
from .pictures import report_pictures
from .predictions import PredictionFiles
from .robustness.files import RobustnessFiles
from .run import installed_versions
from .runner import TRIALS
from .store import STORE_FILE, Store
from .summary import Row, summarize
from .timing import read_latency

COMMANDS_FILE = "commands.txt"


def note_command(lab_dir: str | Path, command: str) -> None:
    """Add the command that fills a lab to the lab's list, once."""
    path = Path(lab_dir) / COMMANDS_FILE
    known = _commands(path)
    if command not in known:
        write_atomic(path, "".join(f"{line}\n" for line in [*known, command]))


def publish(
    lab_dir: str | Path, *, data: dict[str, Any] | None = None, margin: float = MARGIN
) -> tuple[list[Row], Path]:
    """Summarise a lab and write its report. This works at any time, also while trials run.

    Args:
        lab_dir: the lab's folder.
        data: further facts on the data for the report.
        margin: the largest difference of accuracy, as a fraction, that does not matter.

    Returns:
        The summary rows and the path of `report.html`.

    Raises:
        StoreError: there is no lab, or the lab or a measurement in it is damaged or of another version.
    """
    from .report import write_report

    lab = Path(lab_dir)
    with Store(lab / STORE_FILE, write=False) as store:
        stored = store.rows()
    latency = read_latency(lab)
    rows = summarize(
        stored,
        latency["trials"],
        RobustnessFiles(lab),
        axes=read_axes(lab),
        margin=margin,
        predictions=PredictionFiles(lab / TRIALS),
    )
    results = [row.result for row in stored if row.result is not None]
    page = write_report(
        lab,
        rows,
        [row.as_record() for row in stored],
        command="\n".join(_commands(lab / COMMANDS_FILE)) or "not recorded: the lab was filled from Python",
        versions=results[-1]["versions"] if results else installed_versions(),
        machine=results[-1]["machine"] if results else {},
        latency=latency["conditions"],
        data=data,
        pictures=report_pictures(lab, stored),
    )
    return rows, page


def _commands(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
