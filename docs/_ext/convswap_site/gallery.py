"""The pictures of all units, drawn into the build folder."""

from __future__ import annotations

from pathlib import Path

from convswap.units import get_unit

from .draw import svg
from .flow import SIDE, data_flow, example
from .kernels import kernel_picture


def unit_pictures(name: str) -> list[tuple[str, bytes, str]]:
    """File name, content and a sentence for each picture of a unit: for a weight unit its kernels, else the data flow.

    A unit that convolves with one kernel, though it is no weight unit, has both.
    """
    spec = get_unit(name)
    pictures = []
    if spec.kind != "weight":
        unit, image, place = example(spec)
        boxes = data_flow(unit, image)
        size = f"{image.shape[1]} maps of {SIDE} x {SIDE} pixels"
        alt = (
            f"Data flow of {name} ({place}, default options) from {size} in evaluation, as torch.export records it. "
            "Blue: modules. Grey: operators, with the parameters that they use."
        )
        pictures.append((f"{name}.svg", svg(boxes, alt).encode(), alt))
    kernels = kernel_picture(spec)
    if kernels is not None:
        pictures.append((f"{name}-kernels.png", *kernels))
    if not pictures:
        raise ValueError(f"unit {name!r}: no picture could be made of its kernels")
    return pictures


def draw_gallery(folder: Path, names: list[str]) -> dict[str, list[tuple[Path, str]]]:
    """Draw units' pictures into a folder; for each unit their paths and sentences."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, list[tuple[Path, str]]] = {}
    for name in names:
        drawn[name] = []
        for file, content, alt in unit_pictures(name):
            path = folder / file
            if not path.is_file() or path.read_bytes() != content:
                path.write_bytes(content)
            drawn[name].append((path, alt))
    return drawn
