"""Which files are images by their suffix, and which of these can be read here."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

IMAGE_SUFFIXES = frozenset(
    [
        ".avif",
        ".bmp",
        ".gif",
        ".jfif",
        ".jpe",
        ".jpeg",
        ".jpg",
        ".pbm",
        ".pgm",
        ".png",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    ]
)
HEIF_SUFFIXES = frozenset((".heic", ".heif", ".hif"))
"""Photographs of phones, which the package pillow-heif reads."""
UNREAD_SUFFIXES = HEIF_SUFFIXES | frozenset(
    [
        ".jp2",
        ".j2k",
        ".jxl",
        ".svg",
        ".svgz",
        ".dcm",
        ".nii",
        ".npy",
        ".npz",
        ".mat",
        ".tga",
        ".psd",
        ".xcf",
        ".exr",
        ".hdr",
        ".pcx",
        ".ico",
        ".eps",
        ".raw",
        ".nef",
        ".cr2",
        ".cr3",
        ".arw",
        ".dng",
        ".orf",
        ".rw2",
        ".raf",
        ".czi",
        ".svs",
        ".fits",
    ]
)
"""Images, or arrays of them, that nothing here reads."""
NO_SUFFIX = "without suffix"
_SYSTEM_FILES = frozenset(("thumbs.db", "desktop.ini"))


def suffix_of(path: Path) -> str:
    """The suffix in small letters, or `NO_SUFFIX`.

    >>> suffix_of(Path("a.JPG")), suffix_of(Path("0001"))
    ('.jpg', 'without suffix')
    """
    return path.suffix.lower() or NO_SUFFIX


def has_heif() -> bool:
    """Whether the optional package for .heic files is installed."""
    return find_spec("pillow_heif") is not None


def readable_suffixes() -> frozenset[str]:
    """The suffixes of the images that can be read here."""
    return IMAGE_SUFFIXES | HEIF_SUFFIXES if has_heif() else IMAGE_SUFFIXES


def is_system_file(path: Path) -> bool:
    """Whether Windows put the file there."""
    return path.name.casefold() in _SYSTEM_FILES


def how_to_read(suffix: str) -> str:
    """What a person can do about images of a suffix that is not read."""
    if suffix in HEIF_SUFFIXES:
        return 'pip install "convswap[heic]", or convert them to .jpg'
    if suffix == NO_SUFFIX:
        return "give them the suffix of their format, such as .jpg"
    return "convert them to .png or .jpg"
