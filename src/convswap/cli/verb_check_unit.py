"""`convswap check-unit`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from .arguments import Quiet
from .failure import Failure

if TYPE_CHECKING:
    from ..testing import Result

NAME = "check-unit"


def run(
    unit: Annotated[
        str | None, typer.Argument(metavar="UNIT", help="Registry name, see `convswap units`. Not with --list.")
    ] = None,
    rules: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Only rules whose names match; repeat for several.")
    ] = None,
    skip: Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Leave out rules whose names match.")] = None,
    module: Annotated[
        str | None, typer.Option(metavar="MODULE", help="Import this module first, e.g. my_package.gain.")
    ] = None,
    show_list: Annotated[bool, typer.Option("--list", help="Print the rules and stop.")] = False,
    quiet: Quiet = False,
) -> None:
    """Run the unit contract on a unit of any package: every rule, with the defaults and every variant of its row.

    Exit code 1 when the unit breaks a rule. See docs/testing.md.

    \b
    Examples:
      convswap check-unit circle
      convswap check-unit gain --module my_package.gain
      convswap check-unit gain --rules 'fuse*' --rules 'warm_start*'
      convswap check-unit --list
    """
    from ..models.own import import_own
    from ..testing import RULES, check_unit, list_rules

    if show_list:
        patterns = rules or ["*"]
        for name in dict.fromkeys(name for pattern in patterns for name in list_rules(pattern)):
            print(f"{name} ({', '.join(RULES[name].kinds)}): {RULES[name].sentence}")
        return
    if unit is None:
        raise UsageError("check-unit needs the name of a unit, or --list; convswap units lists the names")
    if module is not None:
        import_own(module, f"--module {module}")
    report = check_unit(
        unit, rules=rules or "*", skip=skip or (), raise_failures=False, progress=None if quiet else _show
    )
    print(report)
    if report.failed:
        broken = len({result.rule for result in report.failed})
        raise Failure(f"error: unit {unit!r} breaks {broken} rule{'s' if broken > 1 else ''} of the contract")


def _show(done: int, total: int, result: Result) -> None:
    """Print one line per check. On a terminal, lines of passed checks overwrite each other."""
    line = f"{done}/{total} {result.outcome}: {result.rule} on {result.case}"
    if sys.stderr.isatty():
        print(f"\r\x1b[2K{line}", end="\n" if result.outcome == "failed" or done == total else "", file=sys.stderr)
    else:
        print(line, file=sys.stderr, flush=True)
