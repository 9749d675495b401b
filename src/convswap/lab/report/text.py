"""Numbers formatted for reading. Accuracies are given as fractions and shown in percent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...surgery.latency import WIDEST_SPREAD

NONE = "–"
NOISY = (
    f"noisy: the quartiles are over {100 * WIDEST_SPREAD:.0f} % of the median apart, "
    "or other programs had the processor"
)
_MINUS = "\N{MINUS SIGN}"


def percent(value: float | None) -> str:
    """A fraction in percent, two decimals.

    >>> percent(0.97312)
    '97.31'
    """
    return NONE if value is None else f"{100 * value:.2f}"


def mean_with_interval(mean: float | None, low: float | None, high: float | None) -> str:
    """A mean in percent and the half width of its interval.

    >>> mean_with_interval(0.9731, 0.9689, 0.9773)
    '97.31 ± 0.42'
    """
    if low is None or high is None:
        return percent(mean)
    return f"{percent(mean)} ± {percent((high - low) / 2)}"


def points(value: float | None) -> str:
    """A difference of fractions in percentage points, signed.

    >>> points(-0.0031), points(0.0)
    ('−0.31', '0.00')
    """
    if value is None:
        return NONE
    text = f"{abs(100 * value):.2f}"
    return text if float(text) == 0 else ("+" if value > 0 else _MINUS) + text


def points_interval(low: float | None, high: float | None) -> str:
    """An interval of a difference, in brackets. Empty if there is none."""
    return "" if low is None or high is None else f"[{points(low)}, {points(high)}]"


def p_value(value: float | None) -> str:
    """A p-value to two significant digits, never rounded to zero.

    >>> p_value(0.1), p_value(0.0286), p_value(0.0001)
    ('0.10', '0.029', '<0.001')
    """
    if value is None:
        return NONE
    if value < 0.001:
        return "<0.001"
    return f"{value:.3f}" if value < 0.0995 else f"{value:.2f}"


def p_is(value: float | None) -> str:
    """A p-value in a sentence.

    >>> p_is(0.1), p_is(0.0001), p_is(None)
    ('p = 0.10', 'p < 0.001', 'no p')
    """
    shown = p_value(value)
    return "no p" if value is None else f"p < {shown[1:]}" if shown.startswith("<") else f"p = {shown}"


def count(value: float | None) -> str:
    """A count in full.

    >>> count(272474)
    '272,474'
    """
    return NONE if value is None else f"{value:,.0f}"


def short_count(value: float | None) -> str:
    """A count to three digits with a unit.

    >>> short_count(40551040), short_count(272474), short_count(999999)
    ('40.6 M', '272 k', '1.00 M')
    """
    if value is None:
        return NONE
    for factor, suffix in ((1, ""), (1e3, " k"), (1e6, " M"), (1e9, " G"), (1e12, " T")):
        scaled = value / factor
        if scaled < 999.5 or suffix == " T":
            if not suffix:
                return f"{scaled:.0f}"
            return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f}{suffix}"
    raise AssertionError("unreachable: the last unit takes every value")


def ratio(value: float) -> str:
    """How many times as much, to about two digits.

    >>> ratio(0.0731), ratio(1.0004), ratio(12.4)
    ('×0.073', '×1.00', '×12')
    """
    return f"×{value:.{0 if value >= 10 else 2 if value >= 0.1 else 3}f}"


def milliseconds(value: float | None) -> str:
    """Milliseconds to about three digits."""
    if value is None:
        return NONE
    return f"{value:.{3 if value < 1 else 2 if value < 100 else 0}f}"


def seconds(value: float | None) -> str:
    """A duration.

    >>> seconds(3.24), seconds(75), seconds(7300)
    ('3.2 s', '1 min 15 s', '2 h 1 min')
    """
    if value is None:
        return NONE
    if value < 60:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def options(values: Mapping[str, Any] | None) -> str:
    """Unit options on one line.

    >>> options({"radius": "learnable", "angles": "even"})
    'radius=learnable, angles=even'
    """
    return ", ".join(f"{name}={value}" for name, value in (values or {}).items())


def cut(text: str, length: int) -> str:
    """A text of at most `length` characters, with an ellipsis where it was cut."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def value(item: Any) -> str:
    """A setting's value as text: flags as yes and no, lists without brackets, long floats shortened."""
    if item is None:
        return NONE
    if isinstance(item, bool):
        return "yes" if item else "no"
    if isinstance(item, float):
        return f"{item:.6g}"
    if isinstance(item, int):
        return f"{item:,}" if abs(item) >= 10_000 else str(item)
    if isinstance(item, Mapping):
        return ", ".join(f"{name} {value(part)}" for name, part in item.items()) or NONE
    if isinstance(item, list | tuple):
        return ", ".join(map(value, item)) or NONE
    return str(item)
