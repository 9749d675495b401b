"""The dendritic convolution as an operator: `convswap::dendritic_conv2d` and its readable reference.

`operator.py` registers the operator and what torch needs to know about it. `native.py` computes it by the kernels in
`csrc/`, and `chunked.py` in plain torch on any device. `tiling.py` decides the order of that work. `reference.py`
defines the result.
"""

from .operator import dendritic_conv2d, register_flops, why_torch
from .reference import dendritic_conv2d_reference
from .tiling import elementwise_operations

__all__ = ["dendritic_conv2d", "dendritic_conv2d_reference", "elementwise_operations", "register_flops", "why_torch"]
