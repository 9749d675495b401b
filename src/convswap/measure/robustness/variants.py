"""Which variants the two profiles hold, by family, and which do not suit a data set."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import check_choice
from .corruptions import COMMON, HELD_OUT, PARAMETER_SETS, SMALLEST, corruption_set
from .geometry import flip, quarter_turn, rotation, shear
from .jpeg_quality import QUALITIES, jpeg_sweep
from .perturbation import Perturbation
from .shifts import all_shifts, enlarged_shifts, shift_line

PROFILES = ("quick", "full")

Families = dict[str, list[Perturbation]]


@dataclass(frozen=True)
class Shape:
    """The properties of the images that decide which variants suit them."""

    channels: int
    height: int
    width: int
    mirrored_alike: bool


def families(profile: str, shape: Shape, parameters: str = "auto") -> tuple[Families, dict[str, str]]:
    """The perturbations of a profile by family, and the families or variants left out with the reason.

    Raises:
        UsageError: no such profile or parameters.
    """
    check_choice("profile", profile, PROFILES)
    check_choice("parameters", parameters, PARAMETER_SETS)
    full = profile == "full"
    side, square = min(shape.height, shape.width), shape.height == shape.width
    found: Families = {}
    left_out: dict[str, str] = {}
    if side >= SMALLEST:
        found["corruptions"] = corruption_set(COMMON, (1, 2, 3, 4, 5) if full else (3,), parameters)
        if full:
            held_out = [name for name in HELD_OUT if name != "saturate" or shape.channels == 3]
            found["held_out"] = corruption_set(held_out, parameters=parameters)
            if shape.channels != 3:
                left_out["saturate"] = "grey images have no saturation"
    else:
        left_out["corruptions"] = f"the images are smaller than {SMALLEST}x{SMALLEST}"
    found["jpeg"] = jpeg_sweep(QUALITIES if full else (90, 50, 10))
    reach = min(4 if full else 1, side // 4)
    if reach >= 1:
        found["shifts_reflect"] = all_shifts(reach)
        found["shifts_circular"] = shift_line(2 * reach, "circular")
        if full:
            found["shifts_enlarged"] = enlarged_shifts(side, 2 * reach, 2)
            if not square:
                del found["shifts_enlarged"]
                left_out["shifts_enlarged"] = "the images are not square"
    else:
        left_out["shifts"] = "the images are smaller than 4x4"
    found |= _turned(full, square, left_out)
    if shape.mirrored_alike:
        found["flips"] = [flip("horizontal"), flip("vertical")]
    else:
        left_out["flips"] = "a mirrored image of this data set does not show its class"
    return found, left_out


def _turned(full: bool, square: bool, left_out: dict[str, str]) -> Families:
    angles = range(0, 360, 15) if full else (-30, -15, 0, 15, 30)
    kinds = [("bilinear", False), ("bilinear", True), *([("nearest", False)] if full else [])]
    found: Families = {}
    for interpolation, masked in kinds:
        if masked and not square:
            left_out["rotation_masked"] = "the images are not square"
            continue
        name = f"rotation_{interpolation}_black" + ("_masked" if masked else "")
        found[name] = [rotation(angle, interpolation, masked=masked) for angle in angles]
    for interpolation in ("nearest", "bilinear") if full else ("bilinear",):
        found[f"shear_{interpolation}_black"] = [
            shear(angle, interpolation) for angle in (range(-40, 50, 10) if full else (-20, 0, 20))
        ]
    if square:
        found["quarter_turns"] = [quarter_turn(turns) for turns in range(4)]
    else:
        left_out["quarter_turns"] = "the images are not square"
    return found
