"""Docstrings hold code in single backticks, as Markdown does; reStructuredText wants two."""

from __future__ import annotations

import re
from typing import Any

_KEPT = re.compile(r"(``.+?``|(?<![`\\])`[^`]+`(?!`)|^ *>>> .*$)", re.DOTALL | re.MULTILINE)
# A star before a word that no star closes, an underscore that ends a word, a lone bar: text here, markup there.
_MARK = re.compile(r"(?<![\w*\\])\*{1,2}(?=\w)(?![^*\n]*\w\*)|(?<=\w)_(?=\W|$)|(?<!\|)\|(?!\|)")


def to_rest(lines: list[str]) -> list[str]:
    r"""The lines of a docstring with code spans doubled, and escaped what reStructuredText would take for markup.

    Doctests and everything in double backticks stay as they are.

    >>> to_rest(["The `weight` is |w| times `a`s."])
    ['The ``weight`` is \\|w\\| times ``a``\\ s.']
    """
    done: list[str] = []
    for number, part in enumerate(_KEPT.split("\n".join(lines))):
        code = number % 2 == 1
        if code and part.startswith("`") and not part.startswith("``"):
            done.append(f"`{part}`")
        elif code:
            done.append(part)
        else:
            glued = bool(done) and done[-1].endswith("``") and part[:1].isalnum()
            done.append(("\\ " if glued else "") + _MARK.sub(lambda m: "".join(f"\\{c}" for c in m[0]), part))
    return "".join(done).split("\n")


def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Sphinx's hook `autodoc-process-docstring`, to run before napoleon reads the sections.

    A constant without words of its own has those of its type, which say nothing about it. They are left out.
    """
    own = (type(obj).__doc__ or "").strip().split("\n")[0]
    lines[:] = [] if what == "data" and own and lines and lines[0].strip() == own else to_rest(lines)
