"""The `where` language: which convolutions a swap means.

A selection is a predicate `(path, conv) -> bool` or a string. In a string, alternatives are separated by `,`,
conditions that must all hold by `&`, and `!` negates one. A condition is

- a keyword: `all`, `spatial` (kernel larger than 1x1), `pointwise` (1x1), `depthwise` (one input channel a group),
  `grouped`, `dense` (one group), `strided`, `first`, `last` (in definition order);
- a kernel size: `3x3`, `1x7`;
- anything else: a wildcard on the module path, `layer[34].*`.

>>> from torch import nn
>>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3))
>>> [path for path, _ in select(net, "spatial & !first")]
['2']
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import fnmatchcase

from torch import nn

from ..errors import UsageError, unknown_name
from .sites import Site, sites

Where = str | Callable[[str, nn.Conv2d], bool]

_KEYWORDS: dict[str, Callable[[nn.Conv2d], bool]] = {
    "all": lambda conv: True,
    "spatial": lambda conv: max(conv.kernel_size) > 1,
    "pointwise": lambda conv: max(conv.kernel_size) == 1,
    "depthwise": lambda conv: 1 < conv.groups == conv.in_channels,
    "grouped": lambda conv: conv.groups > 1,
    "dense": lambda conv: conv.groups == 1,
    "strided": lambda conv: max(conv.stride) > 1,
}
_KERNEL = re.compile(r"(\d+)x(\d+)")


def select_sites(model: nn.Module, where: Where) -> list[Site]:
    """The sites (convolutions and weight-bearing units) that `where` means, in definition order.

    Raises:
        UsageError: the string is empty or has an empty condition.
    """
    found = sites(model)
    if callable(where):
        return [s for s in found if isinstance(s.module, nn.Conv2d) and any(where(p, s.module) for p in s.paths)]
    alternatives = [[term.strip() for term in part.split("&")] for part in where.split(",")]
    if any(term in ("", "!") for part in alternatives for term in part):
        raise UsageError(f"where={where!r} has an empty condition; write for example 'spatial & !first' or 'layer4.*'")
    for term in {term.lstrip("! ") for part in alternatives for term in part}:
        _refuse_misspelt(term, found)
    ends = {"first": found[0], "last": found[-1]} if found else {}
    return [s for s in found if any(all(_holds(term, s, ends) for term in part) for part in alternatives)]


def _refuse_misspelt(term: str, found: list[Site]) -> None:
    """A bare word that is no keyword and no module is a slip, which under `!` would silently select everything."""
    known = [*_KEYWORDS, "first", "last"]
    if term.isalpha() and term not in known and found and not any(term in site.paths for site in found):
        raise unknown_name("condition in where", term, known)


def select(model: nn.Module, where: Where) -> list[tuple[str, nn.Module]]:
    """`(path, module)` of what `where` means."""
    return [(site.path, site.module) for site in select_sites(model, where)]


def _holds(term: str, site: Site, ends: dict[str, Site]) -> bool:
    if term.startswith("!"):
        return not _holds(term[1:].strip(), site, ends)
    if term in ends:
        return site is ends[term]
    if term in _KEYWORDS:
        return _KEYWORDS[term](site.module)  # type: ignore[arg-type]  # units have a convolution's attributes
    kernel = _KERNEL.fullmatch(term)
    if kernel:
        return tuple(site.module.kernel_size) == (int(kernel[1]), int(kernel[2]))  # type: ignore[arg-type]
    return any(fnmatchcase(path, term) for path in site.paths)
