"""What a network learned, as numbers and pictures: kernels, spectra, receptive fields, feature reuse, attributions."""

from .atlas import Atlas, kernel_atlas, upright
from .attribution import Attribution, GradCam, attribute, grad_cam
from .classes import CLASSES, KernelClasses, StageClasses, classes_by_stage, classify_kernels, classify_layer
from .field import ReceptiveField, Square, receptive_field, receptive_fields
from .kernels import LayerKernels, effective_kernel, layer_kernels, linearised_kernel
from .layers import Layer, feature_maps, find_layers, last_map
from .lowpass import LowPass, aliasing_energy, dc_gain, low_pass
from .mass import StageMass, mass_by_stage
from .overview import Seen, look
from .page import sections, write_page
from .photos import photographs, sample_images
from .reuse import Duplicates, Redundancy, channel_redundancy, duplicate_maps, duplicates_along
from .side import SideBySide, compare_models
from .side_page import comparison
from .similarity import Similarity, biased_cka, layer_similarity, mean_cosine, minibatch_cka, unbiased_hsic
from .spectra import KernelSpectrum, MapSpectrum, kernel_spectrum, map_spectra, map_spectrum

__all__ = [
    "CLASSES",
    "Atlas",
    "Attribution",
    "Duplicates",
    "GradCam",
    "KernelClasses",
    "KernelSpectrum",
    "Layer",
    "LayerKernels",
    "LowPass",
    "MapSpectrum",
    "ReceptiveField",
    "Redundancy",
    "Seen",
    "SideBySide",
    "Similarity",
    "Square",
    "StageClasses",
    "StageMass",
    "aliasing_energy",
    "attribute",
    "biased_cka",
    "channel_redundancy",
    "classes_by_stage",
    "classify_kernels",
    "classify_layer",
    "compare_models",
    "comparison",
    "dc_gain",
    "duplicate_maps",
    "duplicates_along",
    "effective_kernel",
    "feature_maps",
    "find_layers",
    "grad_cam",
    "kernel_atlas",
    "kernel_spectrum",
    "last_map",
    "layer_kernels",
    "layer_similarity",
    "linearised_kernel",
    "look",
    "low_pass",
    "map_spectra",
    "map_spectrum",
    "mass_by_stage",
    "mean_cosine",
    "minibatch_cka",
    "photographs",
    "receptive_field",
    "receptive_fields",
    "sample_images",
    "sections",
    "unbiased_hsic",
    "upright",
    "write_page",
]
