"""Regularisation methods by name: of the data, inside the network, of the labels.

Importing this package registers every method; a new method adds one file and one line in its family's `__init__`.
"""

from . import data, internal, label
from .absent import NOT_OFFERED
from .combine import replaces_smoothing, settle
from .contract import (
    PLACES,
    Active,
    Attachment,
    Objective,
    Outcome,
    Regularizer,
    Setting,
    Still,
    class_weights,
    hard_labels,
    overrides,
)
from .draws import Draws
from .registry import REGULARIZERS, get_regularizer, list_regularizers, options_of, register_regularizer
from .text import parse_regularizer, parse_regularizers, split_list, text_of

__all__ = [
    "NOT_OFFERED",
    "PLACES",
    "REGULARIZERS",
    "Active",
    "Attachment",
    "Draws",
    "Objective",
    "Outcome",
    "Regularizer",
    "Setting",
    "Still",
    "class_weights",
    "data",
    "get_regularizer",
    "hard_labels",
    "internal",
    "label",
    "list_regularizers",
    "options_of",
    "overrides",
    "parse_regularizer",
    "parse_regularizers",
    "register_regularizer",
    "replaces_smoothing",
    "settle",
    "split_list",
    "text_of",
]
