"""From an exception to the one line a person reads, or to None when it is a programming error."""

from __future__ import annotations

import errno

from ..errors import ConvswapError, UsageError

#: Packages of the extras, by import name: (name to install, what needs it).
OPTIONAL: dict[str, tuple[str, str]] = {
    "typer": ("lab", "the command line"),
    "rich": ("lab", "tables on the terminal"),
    "timm": ("lab", "models by name"),
    "torchvision": ("lab", "models and data sets by name"),
    "lightning_fabric": ("lab", "training"),
    "lightning": ("lab", "training"),
    "torchmetrics": ("lab", "training"),
    "numpy": ("lab", "data"),
    "sklearn": ("lab", "the embedded digits"),
    "scipy": ("lab", "statistics"),
    "pandas": ("lab", "reports"),
    "altair": ("lab", "the charts of the report"),
    "vl_convert": ("lab", "the charts of the report"),
    "jinja2": ("lab", "the report"),
    "matplotlib": ("lab", "pictures"),
    "PIL": ("lab", "image folders"),
    "pytest": ("testing", "checking units"),
    "hypothesis": ("testing", "checking units"),
    "onnx": ("onnx", "ONNX export"),
    "onnxscript": ("onnx", "ONNX export"),
    "onnxruntime": ("onnx", "running ONNX models"),
}


class Failure(Exception):
    """One line for stderr and an exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(" ".join(message.split()))
        self.code = code


def as_failure(error: BaseException) -> Failure | None:
    """What to tell the person, or None when the traceback is what they need."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Failure("interrupted; " + (" ".join(notes_of(error)) or "nothing was left half-written"), 130)
    if isinstance(error, ConvswapError):
        return Failure(f"error: {error}", 2 if isinstance(error, UsageError) else 1)
    if isinstance(error, ModuleNotFoundError):
        return _missing(error)
    if isinstance(error, OSError):
        return Failure(f"error: {_operating_system(error)}")
    return None


def notes_of(error: BaseException) -> list[str]:
    """The notes added on the way up: how to resume, what was being written."""
    return list(getattr(error, "__notes__", []))


def _missing(error: ModuleNotFoundError) -> Failure | None:
    package = (error.name or "").partition(".")[0]
    if package not in OPTIONAL:
        return None
    extra, purpose = OPTIONAL[package]
    return Failure(f'error: {package} is not installed; {purpose} needs it: pip install "convswap[{extra}]"')


def _operating_system(error: OSError) -> str:
    place = f" {error.filename!r}" if error.filename else ""
    hint = {
        errno.ENOSPC: "free some space, then run the same command again: finished work is kept",
        errno.EDQUOT: "free some space, then run the same command again: finished work is kept",
        errno.EACCES: "check its permissions, or name another place",
        errno.EPERM: "check its permissions, or name another place",
        errno.EROFS: "the disk is read-only: name another place",
        errno.ENOENT: "check the path",
        errno.ENOTDIR: "a folder is needed there",
        errno.EISDIR: "a file is needed there, and this is a folder",
        errno.EEXIST: "name another place",
    }.get(error.errno or 0)
    reason = error.strerror or str(error) or type(error).__name__
    text = f"{reason}:{place}" if place else reason
    extra = "; ".join([*([hint] if hint else []), *notes_of(error)])
    return f"{text}; {extra}" if extra else text
