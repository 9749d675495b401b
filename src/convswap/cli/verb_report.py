"""`convswap report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .arguments import DEFAULT_MARGIN, Margin
from .saved import no_lab

NAME = "report"


def run(
    lab: Annotated[Path, typer.Argument(metavar="[LAB]", help="The lab's folder.")] = Path("convswap-lab"),
    margin: Margin = DEFAULT_MARGIN,
) -> None:
    """Show a lab's table again and rebuild its report.html. Works while a comparison runs, or after it was stopped.

    \b
    Examples:
      convswap report
      convswap report lab/cifar
    """
    from ..lab import Store
    from ..lab.decide import check_margin
    from ..lab.publish import publish
    from ..lab.store import STORE_FILE
    from .output import print_comparison, print_troubles

    smallest = check_margin(margin)
    if not lab.exists():
        raise no_lab(lab)
    rows, page = publish(lab, margin=smallest)
    print_comparison(rows, page)
    with Store(lab / STORE_FILE, write=False) as store:
        print_troubles(store.rows())
