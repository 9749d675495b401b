"""Data sets by name: `load_data("digits")`, `load_data("cifar10")`, `load_data("imagefolder:PATH")`, ...

This package stands alone: it uses only torch, and of convswap the errors and the writing of files. torchvision,
scikit-learn and Pillow are imported when a data set needs them.
"""

from .describe import Description
from .folder import FolderImages
from .load import load_data
from .types import ArrayImages, Data, Images

__all__ = ["ArrayImages", "Data", "Description", "FolderImages", "Images", "load_data"]
