"""Convolution of +-1 with +-1 on bits: operators, packing, thresholds, and the packed modules.

`reference.py` defines the result. `operator.py` registers `convswap::binary_pack`, `binary_conv2d`,
`binary_conv2d_sign` and `binary_to_nchw`. `csrc/` has the C++ kernels, which share the contract of one header.
"""

from ..signs import signs
from .chain import PackedBinaryChain
from .module import PackedBinaryConv2d
from .native_calls import path_names
from .onnx_translation import onnx_translations
from .operator import binary_conv2d, binary_conv2d_sign, binary_pack, binary_to_nchw, register_flops
from .packing import pack_activations, pack_weight, unpack_activations, unpack_weight
from .reference import binary_conv2d_reference
from .thresholds import batch_norm_threshold, dot_thresholds

__all__ = [
    "PackedBinaryChain",
    "PackedBinaryConv2d",
    "batch_norm_threshold",
    "binary_conv2d",
    "binary_conv2d_reference",
    "binary_conv2d_sign",
    "binary_pack",
    "binary_to_nchw",
    "dot_thresholds",
    "onnx_translations",
    "pack_activations",
    "pack_weight",
    "path_names",
    "register_flops",
    "signs",
    "unpack_activations",
    "unpack_weight",
]
