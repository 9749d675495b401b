"""`convswap report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

NAME = "report"


def run(
    lab: Annotated[Path, typer.Argument(metavar="[LAB]", help="The lab's folder.")] = Path("convswap-lab"),
) -> None:
    """Show a lab's table again and rebuild its report.html. Works while a comparison runs, or after it was stopped.

    \b
    Examples:
      convswap report
      convswap report lab/cifar
    """
    from ..lab.publish import publish
    from .output import print_comparison

    rows, page = publish(lab)
    print_comparison(rows, page)
