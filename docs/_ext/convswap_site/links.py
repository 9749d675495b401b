"""Links between the repository's Markdown pages, carried over to the places the pages have in the site."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

# Code comes first, so that brackets within it are left alone.
_CODE_OR_LINK = re.compile(
    r"(?P<code>^(?P<fence>`{3,}|~{3,}).*?^(?P=fence)[`~]*\s*?$|(?P<ticks>`+)(?!`).*?(?<!`)(?P=ticks)(?!`))"
    r"|(?P<image>!?)\[(?P<text>(?:[^\[\]`]|`[^`]*`|\[[^\[\]]*\])*)\]\((?P<path>[^()\s]+)\)",
    re.DOTALL | re.MULTILINE,
)
_ABSOLUTE = re.compile(r"[a-z][a-z0-9+.-]*:|#|/", re.IGNORECASE)


def relink(text: str, source: Path, target: Path, moved: Mapping[Path, Path]) -> str:
    """A page's text with every relative link turned so that it leads to the same file from another place.

    A link to a folder becomes its text: a site has no page for a folder.

    Args:
        text: Markdown.
        source: the file the text was written in.
        target: the file it will be read in.
        moved: files that have another place in the site, and that place.

    Raises:
        FileNotFoundError: a link leads to nothing.
    """

    def turn(match: re.Match[str]) -> str:
        if match["code"] is not None or _ABSOLUTE.match(match["path"]):
            return match[0]
        path, hash_sign, anchor = match["path"].partition("#")
        file = Path(os.path.normpath(source.parent / path))
        if not file.exists():
            raise FileNotFoundError(f"{source}: the link ({match['path']}) leads to nothing")
        if file.is_dir():
            return match["text"]
        place = os.path.relpath(moved.get(file, file), target.parent).replace(os.sep, "/")
        return f"{match['image']}[{match['text']}]({place}{hash_sign}{anchor})"

    return _CODE_OR_LINK.sub(turn, text)
