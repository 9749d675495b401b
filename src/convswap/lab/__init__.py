"""The lab: trials as data, their store, the grid that runs them, and the rows that sum them up."""

from .store import Store, StoredTrial
from .trial import BASELINE, Trial, describe_weights

__all__ = ["BASELINE", "Store", "StoredTrial", "Trial", "describe_weights"]
