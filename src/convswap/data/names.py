"""Names of files and folders: how they are shown, and when two are the same word."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path


def shown(path: str | Path) -> str:
    """A name in one line of printable characters, whatever its bytes.

    >>> shown("café"), shown("two" + chr(10) + "lines")
    ('café', 'two\\\\nlines')
    """
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "image"), counted(1200, "image")
    ('1 image', '1,200 images')
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def is_utf8(name: str) -> bool:
    """Whether the name can be written into a text file."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def composed(name: str) -> str:
    """The name with composed letters (NFC): macOS writes an é as two characters, other systems as one."""
    return unicodedata.normalize("NFC", name)


def word(name: str) -> str:
    """What stays of a name when case, spaces at the ends and the way to write an é do not count."""
    return composed(composed(name).strip().casefold())
