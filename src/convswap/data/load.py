"""Loading a data set by its name."""

from __future__ import annotations

from pathlib import Path

from ..errors import UsageError, check_whole, unknown_name
from .arrays import data_from_arrays
from .digits import load_digits
from .hold_out import hold_out as held_out
from .image_folder import load_image_folder
from .named import NAMED_SETS, load_named
from .npz import read_npz
from .options import WHITE, DataOptions
from .types import Data

_KNOWN = ("digits", *NAMED_SETS, "npz:PATH", "imagefolder:PATH")


def load_data(
    name: str,
    *,
    root: str | Path | None = None,
    image_size: int | None = None,
    download: bool = True,
    skip_unreadable: bool = False,
    channels: str = "auto",
    background: str = WHITE,
    eval_split: str = "auto",
    hold_out: float = 0.0,
    cache: str | Path | None = None,
) -> Data:
    """Load a data set by name.

    Args:
        name: one of

            - `digits`: embedded in scikit-learn, 8x8 pixels, needs no network;
            - `cifar10`, `cifar100`, `mnist`, `fashion_mnist`: from `<root>/<name>.npz`, or torchvision's layout
              under `root`, or downloaded to it by torchvision;
            - `npz:PATH`: a file of `x_train, y_train, x_test, y_test` (uint8 images, integer labels), and perhaps
              `x_val, y_val`;
            - `imagefolder:PATH`: a folder of class folders of images, in `train`, `val` and `test` folders, or else
              split here, with a fixed fifth for testing.

        root: the folder of the named sets; by default the environment variable `CONVSWAP_DATA`, or else
            `~/.cache/convswap/data`.
        image_size: side of the square that images of a folder are cropped to (default 224). The other sets have their
            own size, and for them this must equal it.
        download: whether a named set that is not found may be downloaded.
        skip_unreadable: leave out unreadable images of a folder instead of refusing the folder.
        channels: of a folder's images: `"rgb"`, `"gray"` (one channel), or `"auto"`: RGB, with a hint where all images
            are grey.
        background: the colour behind transparent pixels of a folder's images, `#rrggbb` or a name that Pillow knows.
        eval_split: `"val"` or `"test"`, the part that accuracy is reported on. `"auto"`: `test` where there are both,
            and `val` is watched during the training.
        hold_out: for data without a validation part, the share of the training images that becomes one (0.1: a tenth).
        cache: a folder in which what was learned of a folder's files is kept, so that unchanged files are not read
            again.

    Raises:
        UsageError: the name is unknown, or an argument has a wrong value or does not fit the data set.
        DataError: the data are missing, damaged, or not laid out as described.
    """
    if image_size is not None:
        check_whole("image_size", image_size)
    options = DataOptions(channels=channels, background=background, eval_split=eval_split, hold_out=hold_out)
    data = _load(name, root, image_size, download, skip_unreadable, options, None if cache is None else Path(cache))
    return held_out(data, options.hold_out) if options.hold_out else data


def _load(
    name: str,
    root: str | Path | None,
    image_size: int | None,
    download: bool,
    skip_unreadable: bool,
    options: DataOptions,
    cache: Path | None,
) -> Data:
    kind, _, rest = name.partition(":")
    if kind in ("npz", "imagefolder"):
        if not rest:
            raise UsageError(f"data {name!r} lacks a path; write {kind}:PATH")
        path = Path(rest).expanduser()
        if kind == "imagefolder":
            return load_image_folder(
                name,
                path,
                image_size=224 if image_size is None else image_size,
                skip_unreadable=skip_unreadable,
                options=options,
                cache=cache,
            )
        data = data_from_arrays(name, read_npz(path), source=str(path), eval_split=options.eval_split)
    elif name == "digits":
        data = load_digits(options.eval_split)
    elif name in NAMED_SETS:
        data = load_named(name, root, download, options.eval_split)
    else:
        raise _unknown(name)
    if image_size is not None and data.image_size != (image_size, image_size):
        raise UsageError(
            f"image_size={image_size} is not allowed for {name!r}: its images have "
            f"{data.image_size[0]}x{data.image_size[1]} pixels; only imagefolder:PATH has a free size"
        )
    _check_options(options, data)
    return data


def _check_options(options: DataOptions, data: Data) -> None:
    """Options that an array set cannot follow are refused, not ignored."""
    here = "grey" if data.channels == 1 else f"of {data.channels} channels"
    if options.channels not in ("auto", {1: "gray", 3: "rgb"}.get(data.channels)):
        raise UsageError(f"channels={options.channels!r} is not allowed for {data.name!r}: its images are {here}")
    if options.background != WHITE:
        raise UsageError(f"background={options.background!r} is not allowed for {data.name!r}: it has no transparency")


def _unknown(name: str) -> UsageError:
    path = Path(name).expanduser()
    if path.is_dir():
        return UsageError(f"unknown data set {name!r}; a folder of images is named 'imagefolder:{name}'")
    if path.is_file():
        return UsageError(f"unknown data set {name!r}; a file of arrays is named 'npz:{name}'")
    return unknown_name("data set", name, _KNOWN)
