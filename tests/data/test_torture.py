"""Two hundred drawn folders: no image counts twice, none gets another class, none is lost without a word."""

from __future__ import annotations

import os
import struct
import tempfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from convswap.data import Data, load_data, suffixes
from convswap.errors import DataError

from .naive_folder import Naive, read

GOOD_PARTS = [
    (),
    (),
    ("train", "val"),
    ("Train", "TEST"),
    ("training", "Valid", "holdout"),
    ("train", "dev", "testing"),
]
BAD_PARTS = [("train",), ("val", "test"), ("train", "val", "Validation")]
GOOD_CLASSES = ["ant", "Bee", "caf\u00e9", "\u65e5\u672c", "test tube", "a.b", "x y"]
BAD_CLASSES = ["Ant", "ant ", "cafe\u0301", "train", "fold_2"]
FOLDERS = ["", "", "sub", "sub/deep", "pic.jpg", ".hidden", "__MACOSX"]
SUFFIXES = [".png", ".png", ".PNG", ".jpg", ".heic", ".svg", ".txt", ""]
LINKS = ["none", "none", "outside", "again", "file", "up", "self", "other", "nowhere", "twin", "leak", "hard"]
STRAY = ["none", "none", "docs", ".git", "extra", "unlabelled", "cover.png"]


@pytest.fixture(autouse=True)
def _no_optional_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photographs of phones are files that nobody reads here, whether pillow-heif is installed or not."""
    monkeypatch.setattr(suffixes, "find_spec", lambda name: None)


ODDITIES = ["", "", "", "", "", "parts", "class", "bare", "link", "link", "link", "stray", "below", "all"]


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, Any]:
    """A good layout, or one with an oddity, or one in which anything may be odd."""
    oddity = draw(st.sampled_from(ODDITIES))

    def odd(kind: str) -> bool:
        return oddity == kind or (oddity == "all" and draw(st.booleans()))

    classes = draw(st.lists(st.sampled_from(GOOD_CLASSES), min_size=2, max_size=3, unique=True))
    if odd("class"):
        classes.append(draw(st.sampled_from(BAD_CLASSES)))
    place = st.tuples(st.integers(0, 2), st.integers(0, 9))
    below = st.sampled_from([*FOLDERS, "val"] if odd("below") else FOLDERS)
    kinds, least = (LINKS[5:], 1) if odd("link") else (LINKS[:5], 0)
    return {
        "parts": draw(st.sampled_from(BAD_PARTS if odd("parts") else GOOD_PARTS)),
        "classes": classes,
        "bare": draw(place) if odd("bare") else None,
        "absent": draw(st.booleans()),
        "files": draw(st.lists(st.tuples(place, below, st.sampled_from(SUFFIXES)), max_size=8)),
        "links": draw(st.lists(st.tuples(place, place, st.sampled_from(kinds)), min_size=least, max_size=2)),
        "stray": draw(st.sampled_from(STRAY[4:] if odd("stray") else STRAY[:4])),
    }


def png(value: int) -> bytes:
    """One pixel of a colour of its own."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    pixel = b"\0" + value.to_bytes(3, "big")
    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixel)) + chunk(b"IEND", b"")


def build(layout: dict[str, Any], root: Path, outside: Path) -> None:
    """Write the layout. Every file has another content."""
    written = 0
    absent = layout["absent"] and len(layout["parts"]) > 1 and len(layout["classes"]) > 2

    def write(path: Path) -> Path:
        nonlocal written
        written += 1
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(written))
        return path

    homes = [[root / part / name for name in layout["classes"]] for part in layout["parts"] or ("",)]

    def home(place: tuple[int, int]) -> Path:
        row = homes[place[0] % len(homes)]
        return row[place[1] % len(row)]

    if absent:  # the first class has no image for evaluation: the numbers of the others stay
        homes[-1].pop(0)
    for row in homes:
        for folder in row:
            folder.mkdir(parents=True, exist_ok=True)
            if layout["bare"] is None or folder != home(layout["bare"]):
                for index in range(2):
                    write(folder / f"{index}.png")
    for number, (place, below, suffix) in enumerate(layout["files"]):
        write(home(place) / below / f"f{number}{suffix}")
    write(outside / "one.png")
    write(outside / "sub" / "two.png")
    for number, (place, other, kind) in enumerate(layout["links"]):
        link(kind, home(place), home(other), f"l{number}", outside)
    stray = layout["stray"]
    if stray == "docs":
        (root / "docs").mkdir()
        (root / "docs" / "read.txt").write_text("me")
    elif stray != "none":
        write(root / stray if stray.endswith(".png") else root / stray / "image.png")


def link(kind: str, here: Path, there: Path, name: str, outside: Path) -> None:
    """A link of this kind in a class folder."""
    targets = {"outside": outside, "again": outside, "up": "..", "self": ".", "other": there, "nowhere": "no/where"}
    if kind in targets:
        (here / name).symlink_to(targets[kind])
    elif kind == "file":
        (here / f"{name}.png").symlink_to(outside / "one.png")
    elif kind in ("twin", "leak", "hard") and (source := (there if kind == "leak" else here) / "0.png").exists():
        (os.link if kind == "hard" else os.symlink)(source.absolute(), here / f"{name}.png")


def check_loaded(data: Data, naive: Naive) -> None:
    """Nothing twice, no other class, nothing lost without a word."""
    parts = {"train": data.train, "val": data.validation, "test": data.test}
    taken = [(path, label) for images in parts.values() if images is not None for path, label in zip_images(images)]
    files = [os.path.realpath(path) for path, _ in taken]
    assert len({(os.stat(f).st_dev, os.stat(f).st_ino) for f in files}) == len(files)
    assert {path: data.class_names[label] for path, label in taken} == naive.images
    for part, images in parts.items():
        alone = part == "test" and data.validation is None  # then the only other part is the test part
        for path, _ in zip_images(images) if images is not None else ():
            assert naive.part[path] in (("all", "val", "test") if alone else ("all", part))
    assert data.description is not None
    left_out = {(name, s): n for name, counts in data.description.left_out.items() for s, n in counts.items()}
    assert Counter(left_out) == naive.unread
    said = str(data.description)
    for count, text in ((len(naive.twins), "already there"), (len(naive.stray), "in no class folder")):
        assert (f"{count} " in said and text in said) if count else text not in said


def zip_images(images: Any) -> list[tuple[Path, int]]:
    return list(zip(images.paths, images.labels, strict=True))


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(layout=layouts())
def test_any_folder_is_read_right_or_refused_in_a_line(layout: dict[str, Any], tmp_path: Path) -> None:
    place = Path(tempfile.mkdtemp(dir=tmp_path))  # removed with tmp_path: removing each takes longer than reading it
    root = place / "set"
    build(layout, root, place / "outside")
    naive = read(root)
    said = ""
    try:
        data = load_data(f"imagefolder:{root}", image_size=8)
    except DataError as error:
        said = str(error)
    event("refused" if said else "loaded")
    if said:
        assert "\n" not in said
        assert any(name in said for names in naive.faults for name in names), (said, naive.faults)
    else:
        assert not naive.faults, naive.faults
        check_loaded(data, naive)
