"""The `where` language, as far as it needs no model: its grammar and its keywords.

Alternatives are separated by `,`, conditions that must all hold by `&`, and `!` negates one. A condition is a keyword,
a kernel size (`3x3`), or a wildcard on the module path. `surgery.selection` finds what a selection means in a model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ...errors import UsageError, unknown_name

Keywords = Mapping[str, Callable[[Any], bool]]

CONVOLUTIONS: Keywords = {
    "all": lambda conv: True,
    "spatial": lambda conv: max(conv.kernel_size) > 1,
    "pointwise": lambda conv: max(conv.kernel_size) == 1,
    "depthwise": lambda conv: 1 < conv.groups == conv.in_channels,
    "grouped": lambda conv: conv.groups > 1,
    "dense": lambda conv: conv.groups == 1,
    "strided": lambda conv: max(conv.stride) > 1,
}
"""Keywords for a convolution module."""
BLOCKS: Keywords = {
    "all": lambda place: True,
    "strided": lambda place: place.stride > 1,
    "stage_start": lambda place: place.stride > 1,  # and the first block, wherever it stands
    "same": lambda place: place.stride == 1 and place.in_channels == place.out_channels,
}
"""Keywords for a `Place`."""
_SIGN = re.compile(r"[(){}|^$\\\"'<>;]|\[(?![^\],&]+\])")
"""Signs of other languages, and a bracket that is never closed."""
_SPACE = re.compile(r"(?<=[^\s&,!])\s+(?=[^\s&,])")
KERNEL = re.compile(r"(\d+)x(\d+)")
CONVOLUTION_ENDS = ("first", "last", "output")
BLOCK_ENDS = ("first", "last")


def parse(where: str) -> list[list[str]]:
    """The conditions of each alternative, `!` included.

    Raises:
        UsageError: the string is empty, has an empty condition, or a sign that is no part of the language.
    """
    strange = _SIGN.search(where) or _SPACE.search(where)
    if strange is not None:
        raise _syntax_error(where, strange[0], strange.start())
    alternatives = [[term.strip() for term in part.split("&")] for part in where.split(",")]
    if any(term in ("", "!") for part in alternatives for term in part):
        raise UsageError(f"where={where!r} has an empty condition; write for example 'spatial & !first' or 'layer4.*'")
    return alternatives


def _syntax_error(where: str, sign: str, start: int) -> UsageError:
    named = "a space within a condition" if sign.isspace() else repr(sign)
    return UsageError(
        f"where={where!r} is not well-formed: it has {named} at character {start + 1}; join conditions by '&', "
        "separate alternatives by ',', negate by '!', for example 'spatial & !first' or 'layer[34].*, stem'"
    )


def bare_words(alternatives: Iterable[Iterable[str]]) -> set[str]:
    """The conditions without `!` that look like keywords: letters and underscores only."""
    terms = {term.lstrip("! ") for part in alternatives for term in part}
    return {term for term in terms if term.replace("_", "").isalpha()}


def check_default(where: str, *, block: bool) -> None:
    """Raise a `UsageError` unless this selection can be a unit's default, which cannot name a model's modules."""
    known = [*BLOCKS, *BLOCK_ENDS] if block else [*CONVOLUTIONS, *CONVOLUTION_ENDS]
    for word in sorted(bare_words(parse(where))):
        if word not in known:
            raise unknown_name("condition in default_where", word, known)
