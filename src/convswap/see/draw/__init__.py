"""Every picture as a matplotlib figure, with a sentence for readers who cannot see it.

Each function returns a `Picture`. matplotlib is imported when a figure is drawn; its global state is not touched.
"""

from .attributions import attribution_picture
from .features import duplicates_picture, map_spectra_picture, redundancy_picture, similarity_picture
from .fields import field_picture, fields_picture
from .kernels import atlas_picture, classes_picture, low_pass_picture
from .picture import Picture
from .side import (
    atlases_side_picture,
    classes_side_picture,
    colors_of,
    depth_picture,
    fields_side_picture,
    low_pass_side_picture,
    similarity_side_picture,
)
from .spectra import components_picture, mass_picture, power_picture, radial_picture

__all__ = [
    "Picture",
    "atlas_picture",
    "atlases_side_picture",
    "attribution_picture",
    "classes_picture",
    "classes_side_picture",
    "colors_of",
    "components_picture",
    "depth_picture",
    "duplicates_picture",
    "field_picture",
    "fields_picture",
    "fields_side_picture",
    "low_pass_picture",
    "low_pass_side_picture",
    "map_spectra_picture",
    "mass_picture",
    "power_picture",
    "radial_picture",
    "redundancy_picture",
    "similarity_picture",
    "similarity_side_picture",
]
