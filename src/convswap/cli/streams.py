"""Output on any terminal: signs that its encoding lacks get plain ones, and a closed terminal stops nobody."""

from __future__ import annotations

import codecs
import contextlib
import logging
import sys
import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

_PLAIN = {
    **dict.fromkeys("–—−‐‑", "-"),
    **dict.fromkeys("‘’", "'"),
    **dict.fromkeys("“”", '"'),
    **{"×": "x", "±": "+-", "→": "->", "←": "<-", "…": "...", "▲": "^", "▼": "v", "·": ".", "•": "*"},
    **{"≤": "<=", "≥": ">=", "≈": "~", "∗": "*", "✓": "ok", "✗": "no", "µ": "u", "μ": "u", "ß": "ss"},
    **dict.fromkeys("─━═╌╍", "-"),
    **dict.fromkeys("│┃║", "|"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╰╯┏┓┗┛┡┩┢┪╇╈╞╡╪╤╧", "+"),
}
ERRORS = "convswap.plain"


def plain(text: str, encoding: str) -> str:
    """The text with plain signs in place of those that an encoding cannot show, and `?` where there are none.

    >>> plain("97.31 ± 0.42 → naïve 雪", "ascii"), plain("97.31 ± 0.42", "cp1252")
    ('97.31 +- 0.42 -> naive ?', '97.31 ± 0.42')
    """
    return text.encode(encoding, ERRORS).decode(encoding)


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(_PLAIN.get(sign) or _base(sign) for sign in signs), error.end


def _base(sign: str) -> str:
    """The letter below its accents, or a question mark."""
    letters = unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode()
    return letters if letters.isprintable() and letters else "?"


codecs.register_error(ERRORS, _replace)


def show_any_text() -> None:
    """Let stdout and stderr show any text as well as their encoding allows, in place of a `UnicodeEncodeError`."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # a test's or a notebook's stream has none
        if reconfigure is not None:
            reconfigure(errors=ERRORS)


def console(file: TextIO | None = None, **settings: Any) -> Console:
    """A rich console whose tables keep their columns where signs are replaced: before the columns are laid out."""
    from rich.console import Console
    from rich.text import Text

    class PlainConsole(Console):
        def render_str(self, text: str, **given: Any) -> Text:
            return super().render_str(plain(text, self.encoding), **given)

    return PlainConsole(file=file, **settings)


@contextlib.contextmanager
def each_warning_once() -> Iterator[None]:
    """Say each warning of convswap once in a command, however many trials give it."""
    said: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        known = record.getMessage() in said
        said.add(record.getMessage())
        return not known

    logger = logging.getLogger("convswap")
    logger.addFilter(is_new)
    try:
        yield
    finally:
        logger.removeFilter(is_new)
