"""Mixed plans in a lab: a trial of several units has the unit `mixed:NAME`, and the plan's content as options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PREFIX = "mixed:"
"""Before the name of a mixed plan, where otherwise the name of a unit stands."""


def is_mixed(unit: str) -> bool:
    """Is this the name of a mixed plan, rather than of a unit?"""
    return unit.startswith(PREFIX)


def short_id(entries: Mapping[str, Any]) -> str:
    """Six digits of the hash of a mixed plan's content, which tell two plans of one name apart."""
    from ..surgery.mixture import content_id

    return content_id(entries)[:6]
