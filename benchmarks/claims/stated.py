"""The claims: their words, source, how each is measured, and the statement whose truth is the verdict."""

from __future__ import annotations

from dataclasses import dataclass

SAMPLING = "VGNet (arXiv:2207.10318), on the sampling theorem, Fig. 1 and 2"
VGNET = "VGNet (arXiv:2207.10318), abstract and Fig. 1"
NIFF = "NIFF (arXiv:2307.10001), abstract and kernel mass ratio"
MINNET = "Min-Nets (arXiv:2201.02149), abstract and JPEG test"
CMOD = "CMod (arXiv:2212.00394), abstract and flip rates"


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        key: of its number.
        topic: the heading it stands under.
        words: the claim, in our words.
        source: paper and part of it.
        measured: what the number is.
        direction, bound: the statement: the number is `above` or `below` the bound.
        unit: `%` of a part, `points` of a difference of parts (both kept as fractions), or none.
    """

    key: str
    topic: str
    words: str
    source: str
    measured: str
    direction: str
    bound: float
    unit: str = "%"


LOW_PASS = "Low-pass filters in strided depthwise layers"
IDENTITY = "Identity-like kernels in the middle"
EDGES = "Edge-like kernels"
FILTERS = "Learned frequency filters are local"
JPEG = "Min-Nets under JPEG"
SHIFTS = "The modulus under shifts"

CLAIMS = (
    Claim(
        "gaussian_strided",
        LOW_PASS,
        "kernels of strided depthwise layers typically look Gaussian",
        SAMPLING,
        "part of class `gaussian` among all kernels of the strided depthwise layers",
        "above",
        0.5,
    ),
    Claim(
        "aliasing",
        LOW_PASS,
        "strided depthwise layers pass less above the new Nyquist frequency than other depthwise layers",
        SAMPLING,
        "aliasing energy at stride 2, mean of the strided layers minus mean of the stride-1 layers",
        "below",
        0.0,
        "points",
    ),
    Claim(
        "aliasing_learned",
        LOW_PASS,
        "strided depthwise layers learn to: training lowers what they pass above it",
        SAMPLING,
        "aliasing energy of the strided depthwise layers, trained minus freshly drawn",
        "below",
        0.0,
        "points",
    ),
    Claim(
        "gaussian_last",
        LOW_PASS,
        "kernels of the last depthwise layer, before the global pooling, look Gaussian, too",
        SAMPLING,
        "part of class `gaussian` among the kernels of the last depthwise layer",
        "above",
        0.5,
    ),
    Claim(
        "identity_middle",
        IDENTITY,
        "in the middle of a network many depthwise kernels are nearly the identity",
        VGNET,
        "part of class `identity` in the middle third of the stride-1 depthwise layers; many: above a fifth",
        "above",
        0.2,
    ),
    Claim(
        "identity_excess",
        IDENTITY,
        "in the middle of a network more depthwise kernels are nearly the identity than at both ends",
        VGNET,
        "part of class `identity` in the middle third minus the larger part of the first and last third",
        "above",
        0.0,
        "points",
    ),
    Claim(
        "centre_middle",
        IDENTITY,
        "in the middle of a network many depthwise kernels have nine tenths of their energy in the centre tap",
        VGNET,
        "part of such kernels in the middle third of the stride-1 depthwise layers; many: above a fifth",
        "above",
        0.2,
    ),
    Claim(
        "centre_excess",
        IDENTITY,
        "in the middle of a network more depthwise kernels have it there than at both ends",
        VGNET,
        "part of such kernels in the middle third minus the larger part of the first and last third",
        "above",
        0.0,
        "points",
    ),
    Claim(
        "edge_most",
        EDGES,
        "most stride-1 depthwise kernels are edge detectors",
        VGNET,
        "part of class `edge` among all kernels of the stride-1 depthwise layers",
        "above",
        0.5,
    ),
    Claim(
        "edge_falls",
        EDGES,
        "the share of edge detectors falls with depth",
        VGNET,
        "rank correlation of the part of class `edge` in a stride-1 depthwise layer with the layer's place",
        "below",
        0.0,
        unit="",
    ),
    Claim(
        "gaussian_grows",
        EDGES,
        "the share of blurring kernels grows with depth",
        VGNET,
        "rank correlation of the part of class `gaussian` in a stride-1 depthwise layer with the layer's place",
        "above",
        0.0,
        unit="",
    ),
    Claim(
        "niff_magnitude",
        FILTERS,
        "frequency filters put most of their magnitude within 9x9, though they could fill the map",
        NIFF,
        "kernel mass ratio (part of the sum of magnitudes) within 9x9, filters on 32x32 maps",
        "above",
        0.5,
    ),
    Claim(
        "niff_energy",
        FILTERS,
        "frequency filters put nearly all of their energy within 9x9",
        NIFF,
        "part of the sum of squares within 9x9, filters on 32x32 maps",
        "above",
        0.9,
    ),
    Claim(
        "niff_beyond_3",
        FILTERS,
        "frequency filters are larger than 3x3 all the same",
        NIFF,
        "part of the sum of squares outside 3x3, filters on 32x32 maps; larger: above a twentieth",
        "above",
        0.05,
    ),
    Claim(
        "niff_learned",
        FILTERS,
        "being local is learned, not how frequency filters start (our question)",
        NIFF,
        "energy within 9x9, trained minus freshly drawn, filters on 32x32 maps",
        "above",
        0.0,
        "points",
    ),
    *(
        Claim(
            f"jpeg_{score}_{order}",
            JPEG,
            f"{words} ({codec})",
            MINNET,
            f"{what} over JPEG quality 90, 80, 70, 60, 50 ({codec}), minimum minus pyramid blocks, paired by seed",
            "below",
            0.0,
            "points",
        )
        for score, words, what in (
            ("changed", "JPEG changes fewer predictions of Min-Nets", "mean part of changed predictions"),
            ("rise", "JPEG costs Min-Nets less accuracy", "mean rise of the error above the clean one"),
        )
        for order, codec in (("rgb", "right channel order"), ("minnets_bgr", "the authors' channel order"))
    ),
    *(
        Claim(
            f"shift_{other}",
            SHIFTS,
            words,
            CMOD,
            f"flip rate at 1 px (horizontal, enlarged images), modulus minus {name}, paired by seed",
            "below",
            0.0,
            "points",
        )
        for other, words, name in (
            ("max", "with the modulus a shift changes fewer predictions than with its max-pooled wavelet twin", "twin"),
            (
                "plain",
                "with the modulus a shift changes fewer predictions than with the usual convolution and max-pool",
                "usual stem",
            ),
            (
                "blur",
                "with the modulus a shift changes fewer predictions than with the blur-pooled wavelet twin",
                "blurred twin",
            ),
        )
    ),
)
"""In the order of the page."""
