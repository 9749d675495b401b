"""The `where` language: which convolutions (for a block unit: which residual blocks) a swap means.

A selection is a predicate `(path, module) -> bool` or a string. In a string, alternatives are separated by `,`,
conditions that must all hold by `&`, and `!` negates one. A condition is

- a keyword for convolutions: `all`, `spatial` (kernel larger than 1x1), `pointwise` (1x1), `depthwise` (one input
  channel a group), `grouped`, `dense` (one group), `strided`, `first`, `last` (in definition order), `output` (the last
  convolution if no linear layer is defined after it, so that it makes the model's output; else none);
- a keyword for blocks and stages: `all`, `stage_start` (the first, and every strided one), `strided`, `same` (shape
  in = shape out), `first`, `last`;
- a kernel size: `3x3`, `1x7`;
- anything else: a wildcard on the module path, `layer[34].*`.

>>> from torch import nn
>>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3))
>>> [path for path, _ in select(net, "spatial & !first")]
['2']
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from torch import nn

from ..errors import unknown_name
from ..units.contract.where import BLOCKS, CONVOLUTIONS, KERNEL, Keywords, bare_words, parse
from .blocks import BlockSite
from .sites import Site, is_block_unit, sites

Where = str | Callable[[str, nn.Module], bool]
S = TypeVar("S", bound=Site)


def select_sites(model: nn.Module, where: Where) -> list[Site]:
    """The sites (convolutions and weight-bearing units) that `where` means, in definition order.

    Raises:
        UsageError: the string is empty or has an empty condition.
    """
    found = [site for site in sites(model) if not is_block_unit(site.module)]
    if callable(where):
        return [s for s in found if isinstance(s.module, nn.Conv2d) and any(where(p, s.module) for p in s.paths)]
    return _choose(found, where, CONVOLUTIONS, lambda site: site.module, {"output": _output_layer(model, found)})


def select_blocks(found: Sequence[BlockSite], where: Where) -> list[BlockSite]:
    """The ones of these blocks or stages that `where` means, in their order.

    Raises:
        UsageError: the string is empty or has an empty condition.
    """
    if callable(where):
        return [site for site in found if any(where(path, site.module) for path in site.paths)]
    return _choose(list(found), where, BLOCKS, lambda site: site.place)


def _output_layer(model: nn.Module, found: Sequence[Site]) -> Site | None:
    """The last convolution, unless a linear layer is defined after it."""
    convolutions = {id(site.module): site for site in found}
    layers = [m for m in model.modules() if isinstance(m, nn.Linear) or id(m) in convolutions]
    return convolutions.get(id(layers[-1])) if layers else None


def _choose(
    found: list[S],
    where: str,
    keywords: Keywords,
    read: Callable[[S], Any],
    single: Mapping[str, Site | None] | None = None,
) -> list[S]:
    alternatives = parse(where)
    ends = {"first": found[0], "last": found[-1], **(single or {})} if found else {}
    for term in bare_words(alternatives):
        _refuse_misspelt(term, found, [*keywords, *(ends or ("first", "last"))])

    def holds(term: str, site: S) -> bool:
        if term.startswith("!"):
            return not holds(term[1:].strip(), site)
        if term in ends:
            return site is ends[term]
        if term == "stage_start" and term in keywords and site is ends["first"]:
            return True
        if term in keywords:
            return keywords[term](read(site))
        kernel = KERNEL.fullmatch(term)
        if kernel and keywords is CONVOLUTIONS:
            return tuple(site.module.kernel_size) == (int(kernel[1]), int(kernel[2]))  # type: ignore[arg-type]
        return any(fnmatchcase(path, term) for path in site.paths)

    return [s for s in found if any(all(holds(term, s) for term in part) for part in alternatives)]


def _refuse_misspelt(term: str, found: Sequence[Site], known: Sequence[str]) -> None:
    """A bare word that is no keyword and no module is a slip, which under `!` would silently select everything."""
    if term not in known and found and not any(term in site.paths for site in found):
        raise unknown_name("condition in where", term, known)


def select(model: nn.Module, where: Where) -> list[tuple[str, nn.Module]]:
    """`(path, module)` of the convolutions `where` means."""
    return [(site.path, site.module) for site in select_sites(model, where)]
