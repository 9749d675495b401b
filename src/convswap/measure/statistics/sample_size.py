"""How many seeds an experiment needs, before it is run or after it has shown nothing."""

from __future__ import annotations

import math

from ...errors import UsageError, check_choice, check_whole
from .values import positive, share

MOST = 1_000_000
"""More seeds than this are never the answer."""


def power(n: int, difference: float, sd: float, level: float = 0.05) -> float:
    """The chance that a two-sided t-test of n against n runs shows a true difference.

    P(|T'| > t(2n - 2, 1 - level / 2)) for T' of the noncentral t distribution with 2n - 2 degrees of freedom and
    noncentrality difference / (sd sqrt(2 / n)). Equal deviations on both sides.

    Raises:
        UsageError: fewer than two runs, or a number out of its bounds.

    >>> round(power(17, 1.0, 1.0), 3)
    0.807
    """
    check_whole("n", n, 2)
    positive("difference", difference)
    positive("sd", sd)
    share("level", level, 0.05)
    from scipy.special import nctdtr, stdtrit

    freedom, shift = 2 * n - 2, difference / sd * math.sqrt(n / 2)
    if shift > 30:  # far beyond what the noncentral distribution is computed for, and surely found
        return 1.0
    critical = float(stdtrit(freedom, 1 - level / 2))
    # The other tail is below P(Z < -shift), and not computed well where it vanishes.
    other_tail = float(nctdtr(freedom, shift, -critical)) if shift < 5 else 0.0
    return 1 - float(nctdtr(freedom, shift, critical)) + other_tail


def seeds_needed(difference: float, sd: float, *, power: float = 0.8, level: float = 0.05, method: str = "t") -> int:
    """The fewest runs *per side* with which a two-sided test shows a true difference with this probability.

    Args:
        difference: the true difference of the means, above 0.
        sd: the deviation of one side's runs, the same on both sides.
        power: the wanted probability of showing it.
        level: of the test.
        method: `"t"` for the noncentral t distribution, or `"normal"` for the textbook's approximation
            2 (z(1 - level / 2) + z(power))^2 sd^2 / difference^2, which is one or two runs below.

    Raises:
        UsageError: a number out of its bounds, an unknown method, or an answer above a million.

    >>> seeds_needed(0.2, 0.2), seeds_needed(0.2, 0.2, method="normal")
    (17, 16)
    """
    positive("difference", difference)
    positive("sd", sd)
    share("power", power, 0.8)
    share("level", level, 0.05)
    check_choice("method", method, ("t", "normal"))
    from scipy.special import ndtri

    z = float(ndtri(1 - level / 2)) + float(ndtri(power))
    needed = 2 * (z * sd / difference) ** 2 if difference > sd * 1e-9 else math.inf
    if needed > MOST:
        raise UsageError(f"difference={difference!r} with sd={sd!r} needs over {MOST:,} runs; give a larger difference")
    approximate = max(2, math.ceil(needed))
    return approximate if method == "normal" else _by_t(approximate, difference, sd, power, level)


def noether_pairs(probability: float = 0.75, *, power: float = 0.95, level: float = 0.05) -> int:
    """Pairs of runs that show P(A > B) > 0.5 by a one-sided test where it truly is `probability` (Noether 1987).

    ((z(1 - level) + z(power)) / (sqrt(6) (probability - 1/2)))^2, rounded up: 29 by the defaults, which are those of
    Bouthillier et al. 2021 (arXiv:2103.03098).

    Raises:
        UsageError: a number out of its bounds; the probability must be above 0.5.

    >>> noether_pairs()
    29
    """
    share("power", power, 0.95)
    share("level", level, 0.05)
    if not 0.5 < share("probability", probability, 0.75) < 1:
        raise UsageError(f"probability={probability!r} is not allowed; give a number above 0.5, such as 0.75")
    from scipy.special import ndtri

    z = float(ndtri(1 - level)) + float(ndtri(power))
    return math.ceil((z / (math.sqrt(6) * (probability - 0.5))) ** 2)


def _by_t(start: int, difference: float, sd: float, wanted: float, level: float) -> int:
    """The t-test needs a little more than the normal approximation says: look upwards from there."""
    n = start
    while power(n, difference, sd, level) < wanted:
        n += 1
    return n
