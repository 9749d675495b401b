"""Units: modules that can stand where an `nn.Conv2d` stands, their contract and their registry.

Importing this package registers every unit of convswap; a new unit adds one file and one line here.
"""

from ..marks import with_marks, without_marks
from .binary.binary_weight import BinaryWeightConv2d
from .binary.quantized import FusedQuantized, FusedSigns, QuantizedConv2d, StochasticQuantizedConv2d
from .binary.quantized_rnn import QuantizedLSTM, QuantizedRNN
from .binary.quantizers import nearest_power_of_two
from .binary.shift_norm import ShiftBatchNorm1d, ShiftBatchNorm2d
from .binary.xnor import FusedLevels, XnorConv2d
from .circle.circle import CircleConv2d
from .circle.mix import CircleMixConv2d
from .circle.square import CircleSquareConv2d
from .cmod.stem import FusedModulusStem, ModulusStem
from .cmod.wavelets import DtCwpt2d
from .contract.block import BlockUnit, Place
from .contract.feature import FeatureUnit
from .contract.geometry import Geometry, plain_conv
from .contract.registry import UnitSpec, get_unit, list_units, register_unit, spec_of
from .contract.start import Unit
from .contract.weight import WeightUnit
from .dendritic.dendritic import DendriticConv2d, DendriticLinear
from .dendritic.levels import LevelConv2d
from .ghost.g_ghost import FusedGGhostStage, GGhostStage
from .ghost.ghost import FusedGhost, GhostConv2d
from .harmonic.block import FusedHarmonicBlock, HarmonicBlock
from .harmonic.layers import (
    ComplexBatchNorm,
    ComplexReLU,
    HarmonicConv2d,
    HarmonicMeanPool,
    MagnitudeAffine,
    magnitude_sum,
)
from .ic.ic import FusedIC, ICConv2d
from .mgic.block import FusedMGIC, MGICBlock, mgic_parameters
from .minimum.block import FusedMinimumBlock, MinimumBlock, ResidualAdapter
from .minimum.core import FusedMinimum
from .minimum.minimum import MinimumConv2d
from .niff.niff import FusedNIFF, NIFFConv2d
from .niff.spatial import load_official_niff, resampling_error
from .pide.hamiltonian import FusedHamiltonian, HamiltonianBlock
from .pide.pide import FusedPIDE, PIDEBlock
from .plain import PlainConv2d
from .sk.attention import FusedSelectiveKernel
from .sk.sk import SelectiveKernelConv2d
from .vgnet.downsampling import DownsamplingBlock
from .vgnet.fixed import FixedConv2d
from .vgnet.half_identity import HalfIdentityBlock

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
    "with_marks",
    "without_marks",
]
