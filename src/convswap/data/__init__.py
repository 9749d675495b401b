"""Data sets by name: `load_data("digits")`, `load_data("cifar10")`, `load_data("imagefolder:PATH")`, ...

This room stands alone: it knows torch and the package's errors. torchvision, scikit-learn and Pillow are
imported when a data set needs them.
"""

from .folder import FolderImages
from .load import load_data
from .types import ArrayImages, Data, Images

__all__ = ["ArrayImages", "Data", "FolderImages", "Images", "load_data"]
