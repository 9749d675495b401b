"""Units: modules that can stand where an `nn.Conv2d` stands, their contract and their registry.

Importing this package registers every unit of convswap; a new unit adds one file and one line here.
"""

from .binary_weight import BinaryWeightConv2d
from .block import BlockUnit, Place
from .circle import CircleConv2d
from .circle_mix import CircleMixConv2d
from .circle_square import CircleSquareConv2d
from .cmod import FusedModulusStem, ModulusStem
from .cmod_wavelets import DtCwpt2d
from .contract import FeatureUnit, Geometry, Unit, WeightUnit, plain_conv
from .conv import PlainConv2d
from .dendritic import DendriticConv2d, DendriticLinear
from .dendritic_levels import LevelConv2d
from .fixed import FixedConv2d
from .g_ghost import FusedGGhostStage, GGhostStage
from .ghost import FusedGhost, GhostConv2d
from .half_identity import HalfIdentityBlock
from .hamiltonian import FusedHamiltonian, HamiltonianBlock
from .harmonic import FusedHarmonicBlock, HarmonicBlock
from .harmonic_layers import (
    ComplexBatchNorm,
    ComplexReLU,
    HarmonicConv2d,
    HarmonicMeanPool,
    MagnitudeAffine,
    magnitude_sum,
)
from .ic import FusedIC, ICConv2d
from .mgic import FusedMGIC, MGICBlock, mgic_parameters
from .minimum import MinimumConv2d
from .minimum_block import FusedMinimumBlock, MinimumBlock, ResidualAdapter
from .minimum_core import FusedMinimum
from .niff import FusedNIFF, NIFFConv2d
from .niff_spatial import load_official_niff, resampling_error
from .pide import FusedPIDE, PIDEBlock
from .quantized import FusedQuantized, FusedSigns, QuantizedConv2d, StochasticQuantizedConv2d
from .quantized_rnn import QuantizedLSTM, QuantizedRNN
from .quantizers import nearest_power_of_two
from .registry import UnitSpec, get_unit, list_units, register_unit, spec_of
from .shift_norm import ShiftBatchNorm1d, ShiftBatchNorm2d
from .sk import SelectiveKernelConv2d
from .sk_attention import FusedSelectiveKernel
from .vgnet_downsampling import DownsamplingBlock
from .xnor import FusedLevels, XnorConv2d

__all__ = [
    "BinaryWeightConv2d",
    "BlockUnit",
    "CircleConv2d",
    "CircleMixConv2d",
    "CircleSquareConv2d",
    "ComplexBatchNorm",
    "ComplexReLU",
    "DendriticConv2d",
    "DendriticLinear",
    "DownsamplingBlock",
    "DtCwpt2d",
    "FeatureUnit",
    "FixedConv2d",
    "FusedGGhostStage",
    "FusedGhost",
    "FusedHamiltonian",
    "FusedHarmonicBlock",
    "FusedIC",
    "FusedLevels",
    "FusedMGIC",
    "FusedMinimum",
    "FusedMinimumBlock",
    "FusedModulusStem",
    "FusedNIFF",
    "FusedPIDE",
    "FusedQuantized",
    "FusedSelectiveKernel",
    "FusedSigns",
    "GGhostStage",
    "Geometry",
    "GhostConv2d",
    "HalfIdentityBlock",
    "HamiltonianBlock",
    "HarmonicBlock",
    "HarmonicConv2d",
    "HarmonicMeanPool",
    "ICConv2d",
    "LevelConv2d",
    "MGICBlock",
    "MagnitudeAffine",
    "MinimumBlock",
    "MinimumConv2d",
    "ModulusStem",
    "NIFFConv2d",
    "PIDEBlock",
    "Place",
    "PlainConv2d",
    "QuantizedConv2d",
    "QuantizedLSTM",
    "QuantizedRNN",
    "ResidualAdapter",
    "SelectiveKernelConv2d",
    "ShiftBatchNorm1d",
    "ShiftBatchNorm2d",
    "StochasticQuantizedConv2d",
    "Unit",
    "UnitSpec",
    "WeightUnit",
    "XnorConv2d",
    "get_unit",
    "list_units",
    "load_official_niff",
    "magnitude_sum",
    "mgic_parameters",
    "nearest_power_of_two",
    "plain_conv",
    "register_unit",
    "resampling_error",
    "spec_of",
]
