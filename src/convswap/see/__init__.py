"""What a network learned, as numbers and pictures: kernels, spectra, receptive fields, feature reuse, attributions."""

from .atlas import Atlas, kernel_atlas, upright
from .classes import CLASSES, KernelClasses, StageClasses, classes_by_stage, classify_kernels, classify_layer
from .kernels import LayerKernels, effective_kernel, layer_kernels, linearised_kernel
from .layers import Layer, feature_maps, find_layers, last_map
from .lowpass import LowPass, aliasing_energy, dc_gain, low_pass

__all__ = [
    "CLASSES",
    "Atlas",
    "KernelClasses",
    "Layer",
    "LayerKernels",
    "LowPass",
    "StageClasses",
    "aliasing_energy",
    "classes_by_stage",
    "classify_kernels",
    "classify_layer",
    "dc_gain",
    "effective_kernel",
    "feature_maps",
    "find_layers",
    "kernel_atlas",
    "last_map",
    "layer_kernels",
    "linearised_kernel",
    "low_pass",
    "upright",
]
