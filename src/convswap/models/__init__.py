"""Models by name, their weights, and whole models on disk.

`create_model` makes networks from timm (including the CIFAR ResNets of this package), from torchvision, or
from a function of the user; `load_weights` starts one from a file, `load_plain` a swapped one from its host's
weights. `save` and `load` keep a model together with its surgery and a `ModelCard` of what it was trained on. Neither
timm nor torchvision is imported before it is needed.
"""

from .card import ModelCard
from .factory import create_model
from .plain import load_plain
from .saved import load, save
from .weights import load_weights

__all__ = ["ModelCard", "create_model", "load", "load_plain", "load_weights", "save"]
