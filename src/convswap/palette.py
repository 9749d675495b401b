"""The colours of units and models, both in the report and in pictures of networks."""

from __future__ import annotations

#: The colours of Okabe and Ito for colour-blind readers. The first belongs to the baseline: a grey that stays in the
#: background. Their yellow is left out because it vanishes on white.
SERIES = ("#6b6f76", "#0072b2", "#d55e00", "#009e73", "#b3568f", "#c28100", "#56b4e9")


def series_color(index: int) -> str:
    """The colour of a series. Beyond the palette the colours start over, and only the first is grey.

    >>> series_color(0), series_color(1) == series_color(7)
    ('#6b6f76', True)
    """
    return SERIES[0] if index == 0 else SERIES[1 + (index - 1) % (len(SERIES) - 1)]
