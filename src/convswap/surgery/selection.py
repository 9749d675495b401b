"""The `where` language: which convolutions (for a block unit: which residual blocks) a swap selects.

A selection is a predicate `(path, module) -> bool` or a string. In a string, `,` separates alternatives, `&` joins
conditions that must all hold, and `!` negates a condition. A condition is

- a keyword for convolutions: `all`, `spatial` (kernel larger than 1x1), `pointwise` (1x1), `depthwise` (one input
  channel a group), `grouped`, `dense` (one group), `strided`, `last` (in definition order), `first` (every convolution
  that reads an input of the network through no other layer), `output` (every convolution whose result leaves the
  network through no other layer, convolution or linear). Where the data flow cannot be seen, `first` is the first in
  definition order, and `output` the last unless a linear layer is defined after it;
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

from ..errors import UsageError, unknown_name
from ..units.contract.where import BLOCKS, CONVOLUTIONS, KERNEL, Keywords, bare_words, parse
from .blocks import BlockSite
from .flow import FlowReader
from .sites import Site, is_block_unit, sites

Where = str | Callable[[str, nn.Module], bool]
S = TypeVar("S", bound=Site)


def select_sites(
    model: nn.Module, where: Where, reader: FlowReader | None = None, *, default: bool = False
) -> list[Site]:
    """The sites (convolutions and weight-bearing units) that `where` selects, in definition order.

    A unit's own placement (`default`) is written for any network, and may leave out what this one has not.

    Raises:
        UsageError: the string is not well-formed, names a module that is no convolution of the model, or leaves out by
            a wildcard what is not there.
    """
    found = [site for site in sites(model) if not is_block_unit(site.module)]
    if callable(where):
        return [s for s in found if isinstance(s.module, nn.Conv2d) and any(where(p, s.module) for p in s.paths)]
    ends = _ends(model, found, where, reader or FlowReader(model, None)) if found else {}
    modules = [path for path, _ in model.named_modules(remove_duplicate=False)]
    return _choose(found, where, CONVOLUTIONS, lambda site: site.module, ends, None if default else modules)


def asks_for_flow(where: Where) -> bool:
    """Does a selection name the ends of the network, for which the data flow is needed?"""
    return isinstance(where, str) and bool({"first", "output"} & bare_words(parse(where)))


def _ends(model: nn.Module, found: Sequence[Site], where: str, reader: FlowReader) -> dict[str, Sequence[Site]]:
    """The sites that `first`, `last` and `output` select."""
    flow = reader.flow if asks_for_flow(where) else None
    if flow is None:
        return {"first": found[:1], "last": found[-1:], "output": _output_layer(model, found)}
    first, output = ([s for s in found if s.path in paths] for paths in (flow.first, flow.output))
    return {"first": first, "last": found[-1:], "output": output}


def select_blocks(found: Sequence[BlockSite], where: Where) -> list[BlockSite]:
    """Those of these blocks or stages that `where` selects, in their order.

    Raises:
        UsageError: the string is not well-formed, or names a module that is no such place.
    """
    if callable(where):
        return [site for site in found if any(where(path, site.module) for path in site.paths)]
    ends = {"first": found[:1], "last": found[-1:]} if found else {}
    return _choose(list(found), where, BLOCKS, lambda site: site.place, ends)


def select_modules(found: Sequence[S], where: str) -> list[S]:
    """Those of these modules, of any kind, that a selection of wildcards, `all`, `first` and `last` means.

    Raises:
        UsageError: the string is not well-formed, or names a module that is none of these.
    """
    ends = {"first": found[:1], "last": found[-1:]}
    return _choose(list(found), where, {"all": lambda site: True}, lambda site: site, ends)


def _output_layer(model: nn.Module, found: Sequence[Site]) -> list[Site]:
    """The last convolution, unless a linear layer is defined after it."""
    convolutions = {id(site.module): site for site in found}
    layers = [m for m in model.modules() if isinstance(m, nn.Linear) or id(m) in convolutions]
    return [convolutions[id(m)] for m in layers[-1:] if id(m) in convolutions]


def _choose(
    found: list[S],
    where: str,
    keywords: Keywords,
    read: Callable[[S], Any],
    ends: Mapping[str, Sequence[Site]],
    modules: Sequence[str] | None = (),
) -> list[S]:
    alternatives = parse(where)
    if modules is not None:
        _refuse_idle([term for part in alternatives for term in part], found, modules)
    for term in sorted({term.lstrip("! ") for part in alternatives for term in part}):
        if not KERNEL.fullmatch(term) and not set("*?[") & set(term):
            _refuse_misspelt(term, found, [*keywords, *(ends or ("first", "last"))])

    def holds(term: str, site: S) -> bool:
        if term.startswith("!"):
            return not holds(term[1:].strip(), site)
        if term in ends:
            return any(site is end for end in ends[term])
        if term == "stage_start" and term in keywords and site is ends["first"][0]:
            return True
        if term in keywords:
            return keywords[term](read(site))
        kernel = KERNEL.fullmatch(term)
        if kernel and keywords is CONVOLUTIONS:
            return tuple(site.module.kernel_size) == (int(kernel[1]), int(kernel[2]))  # type: ignore[arg-type]
        return any(fnmatchcase(path, term) for path in site.paths)

    return [s for s in found if any(all(holds(term, s) for term in part) for part in alternatives)]


def _refuse_idle(terms: Sequence[str], found: Sequence[Site], modules: Sequence[str]) -> None:
    """Refuse to leave out what is not there: the slip would silently select what was to stay as it is."""
    paths = [*modules, *(path for site in found for path in site.paths)]
    for term in terms:
        name = term.lstrip("! ")
        if term.startswith("!") and set("*?[") & set(name) and not any(fnmatchcase(path, name) for path in paths):
            few = ", ".join([site.path or "(the model)" for site in found][:4])
            raise UsageError(
                f"condition {term!r} in where leaves nothing out: no module of the model is called so; there are {few}"
            )


def _refuse_misspelt(term: str, found: Sequence[Site], known: Sequence[str]) -> None:
    """Refuse a word that names neither a keyword nor a place: under `!` a slip would select everything."""
    paths = [path for site in found for path in site.paths]
    if term in known or term in paths or not found:
        return
    inside = sum(path.startswith(f"{term}.") for path in paths)
    if inside:
        raise UsageError(
            f"condition {term!r} in where is a module around {inside} of the model's places and none itself; write "
            f"'{term}.*' for those inside"
        )
    raise unknown_name("condition in where", term, known if term.replace("_", "").isalpha() else [*known, *paths])


def none_selected(model: nn.Module, selection: str, others: str = "") -> UsageError:
    """The error for a selection (in words) that matches no convolution: it names those that are there."""
    found = select_sites(model, "all")
    others = f"; {others}" if others else ""
    if not found:
        return UsageError(f"{selection} matches nothing: the model has no 2-d convolution that is a module{others}")
    few = ", ".join(f"{site.path or '(the model)'} ({_geometry(site.module)})" for site in found[:4])
    more = ", ..." if len(found) > 4 else ""
    number = "the model's only convolution" if len(found) == 1 else f"none of the model's {len(found)} convolutions"
    verb = "does not match" if len(found) == 1 else "matches"
    way_out = "choose others by where= (--where), such as 'all'"
    return UsageError(f"{selection} {verb} {number}: {few}{more}; {way_out}{others}")


def _geometry(conv: Any) -> str:
    return f"{'x'.join(map(str, conv.kernel_size))}, {conv.in_channels} -> {conv.out_channels}"


def select(model: nn.Module, where: Where) -> list[tuple[str, nn.Module]]:
    """`(path, module)` of the convolutions that `where` selects."""
    return [(site.path, site.module) for site in select_sites(model, where)]
