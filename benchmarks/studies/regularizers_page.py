"""The tables of docs/regularizers.md: from the registry, and from the result of `benchmarks.studies.regularizers`.

python -m benchmarks.studies.regularizers_page
"""

from __future__ import annotations

import json
from typing import Any

from benchmarks.common import RESULTS, ROOT
from convswap.regularizers import NOT_OFFERED, PLACES, REGULARIZERS, list_regularizers, options_of

PAGE = ROOT / "docs/regularizers.md"
RESULT = RESULTS / "studies/regularizers.json"
COMMAND = "python -m benchmarks.studies.regularizers_page"
_HEAD = ("method", "family", "what it does", "acts at", "options", "cost", "paper", "a step costs", "changed here")


def measured() -> dict[str, Any] | None:
    """The result, if there is one."""
    return json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else None


def table(result: dict[str, Any] | None) -> str:
    """One row a method. Without a result the last two columns say so."""
    rows = [_HEAD, ("---",) * len(_HEAD)]
    for name in list_regularizers():
        cls = REGULARIZERS[name]
        if not cls.__module__.startswith("convswap."):
            continue  # a user's own
        options = ", ".join(f"`{key}={value}`" for key, value in options_of(cls).items()) or "none"
        facts = (f"`{name}`", cls.family, cls.summary, PLACES[cls.place], options, cls.cost, cls.paper)
        rows.append((*facts, *_figures(name, result)))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n" + _caption(result)


def _figures(name: str, result: dict[str, Any] | None) -> tuple[str, str]:
    row = None if result is None else result["methods"].get(name)
    if row is None:
        return "not measured", "not measured"
    if "refused" in row:
        return "–", "cannot work there"
    cost = f"{row['cost']['median']:.2f}x"
    change = row.get("against_none")
    if change is None:
        return cost, "not measured"
    if change["low"] is None:
        return cost, f"{change['difference']:+.2f} (n = {len(row['accuracies'])})"
    return cost, f"{change['difference']:+.2f} [{change['low']:+.2f}, {change['high']:+.2f}]"


def _caption(result: dict[str, Any] | None) -> str:
    if result is None:
        return "\nThe last two columns are empty: the study has not been run yet.\n"
    return (
        f"\nMeasured with {result['model']} on {result['data']}, {result['epochs']} epochs, {result['seeds']} seeds: "
        "the time of a training step over a plain one, and points of test accuracy over the training without the "
        "method, with the 95% interval. An interval that holds 0 is no evidence of a change.\n"
    )


def missing() -> str:
    """One line a method that is not offered."""
    return "\n".join(f"- `{name}`: {reason}" for name, reason in NOT_OFFERED.items()) + "\n"


def filled(page: str, result: dict[str, Any] | None) -> str:
    """The page with both parts written anew."""
    for mark, text in (("table", table(result)), ("missing", missing())):
        before, start, rest = page.partition(f"<!-- {mark} -->\n")
        _, end, after = rest.partition(f"<!-- end of {mark} -->")
        if not (start and end):
            raise ValueError(f"{PAGE.name} lacks the marks of {mark!r}")
        page = f"{before}{start}{text}{end}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), measured()), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
