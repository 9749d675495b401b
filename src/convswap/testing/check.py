"""The contract for plain Python: `check_unit` and its report."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from ..units import get_unit
from .case import Case, cases_of
from .rule import ContractError, NotApplicable, Rule
from .rules import select

Outcome = Literal["passed", "failed", "not applicable"]


@dataclass(frozen=True)
class Result:
    """The outcome of one rule on one case; `message` is empty if it passed."""

    rule: str
    case: str
    outcome: Outcome
    message: str = ""

    def __str__(self) -> str:
        return f"{self.outcome}: {self.rule} on {self.case}" + (f": {self.message}" if self.message else "")


@dataclass(frozen=True)
class Report:
    """The outcomes of all rules on one unit. Print it for the failures, one per line, and the counts."""

    unit: str
    results: tuple[Result, ...]

    def of(self, outcome: Outcome) -> list[Result]:
        """The results with one outcome."""
        return [result for result in self.results if result.outcome == outcome]

    @property
    def failed(self) -> list[Result]:
        """The broken rules."""
        return self.of("failed")

    def __str__(self) -> str:
        counts = ", ".join(f"{len(self.of(outcome))} {outcome}" for outcome in ("passed", "failed", "not applicable"))
        lines = [f"{self.unit}: {counts}"]
        lines += [f"  failed: {result.message}" for result in self.failed]
        lines += [f"  not applicable: {r.rule} on {r.case}: {r.message}" for r in self.of("not applicable")]
        return "\n".join(lines)


def check_unit(
    name: str,
    *,
    rules: str | Iterable[str] = "*",
    skip: str | Iterable[str] = (),
    raise_first: bool = False,
    raise_failures: bool = True,
    progress: Callable[[int, int, Result], object] | None = None,
) -> Report:
    """Run the rules of the contract on a registered unit, with its default options and every variant of its row.

    Args:
        name: of a registered unit.
        rules: names or wildcards of the rules to run.
        skip: names or wildcards of rules to leave out.
        raise_first: stop at the first broken rule, with the unit's own traceback behind the error.
        raise_failures: raise at the end when a rule is broken. False returns the report instead.
        progress: called after every rule with the number done, the total number, and the result.

    Returns:
        The report: every rule that concerns the unit with its outcome.

    Raises:
        ContractError: rules are broken. The message lists them.
        UsageError: an unknown unit, or a pattern that no rule matches. The message gives the nearest names.
    """
    get_unit(name)
    work = [(rule, case) for case in cases_of(name) for rule in select(rules, skip) if rule.concerns(case)]
    results = []
    for done, (rule, case) in enumerate(work, 1):
        results.append(_run(rule, case, raise_first))
        if progress is not None:
            progress(done, len(work), results[-1])
    report = Report(name, tuple(results))
    if raise_failures and report.failed:
        lines = "\n".join(f"- {result.message}" for result in report.failed)
        raise ContractError(f"unit {name!r} breaks {len(report.failed)} of {len(results)} checks:\n{lines}")
    return report


def _run(rule: Rule, case: Case, raise_first: bool) -> Result:
    try:
        rule(case)
    except NotApplicable as reason:
        return Result(rule.name, str(case), "not applicable", str(reason))
    except ContractError as error:
        if raise_first:
            raise
        return Result(rule.name, str(case), "failed", str(error))
    return Result(rule.name, str(case), "passed")
