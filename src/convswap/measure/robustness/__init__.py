"""Robustness and invariance: perturbations of uint8 images, one table of predictions, scores that follow from it.

`robustness(model, dataset)` runs a whole profile; the pieces are public for other protocols.
"""

from .calibration_error import Calibration, calibration
from .cifar_c_files import cifar_c, cifar_c_names, load_cifar_c
from .corruptions import COMMON, GROUPS, HELD_OUT, corrupt, corruption, corruption_set
from .draws import Draws
from .geometry import flip, quarter_turn, random_rotation, random_shear, rotation, shear
from .jpeg_quality import compress, jpeg, jpeg_sweep
from .paired import PairedDifference, compare_paired, mcnemar
from .perturbation import Perturbation, clean
from .predictions import Sample, predict, sample_of
from .profile import robustness
from .result import Robustness
from .scores import (
    ALEXNET_ERRORS,
    all_pairs_consistency,
    flip_probability,
    flip_rate,
    mean_corruption_error,
    pair_consistency,
    relative_corruption_error,
    shift_divergence,
    stability,
)
from .shifts import all_shifts, crop_diagonal, crop_pairs, enlarged_shifts, shift, shift_line
from .table import Predictions

__all__ = [
    "ALEXNET_ERRORS",
    "COMMON",
    "GROUPS",
    "HELD_OUT",
    "Calibration",
    "Draws",
    "PairedDifference",
    "Perturbation",
    "Predictions",
    "Robustness",
    "Sample",
    "all_pairs_consistency",
    "all_shifts",
    "calibration",
    "cifar_c",
    "cifar_c_names",
    "clean",
    "compare_paired",
    "compress",
    "corrupt",
    "corruption",
    "corruption_set",
    "crop_diagonal",
    "crop_pairs",
    "enlarged_shifts",
    "flip",
    "flip_probability",
    "flip_rate",
    "jpeg",
    "jpeg_sweep",
    "load_cifar_c",
    "mcnemar",
    "mean_corruption_error",
    "pair_consistency",
    "predict",
    "quarter_turn",
    "random_rotation",
    "random_shear",
    "relative_corruption_error",
    "robustness",
    "rotation",
    "sample_of",
    "shear",
    "shift",
    "shift_divergence",
    "shift_line",
    "stability",
]
