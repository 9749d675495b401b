"""The lab: trials as data, their store, the grid that runs them, and the rows that summarise them."""

from .axis import Axis
from .network import describe_network
from .run import run_trial
from .runner import run_grid
from .store import Store, StoredTrial
from .summary import summarize
from .trial import BASELINE, Trial, describe_parent, describe_weights

__all__ = [
    "BASELINE",
    "Axis",
    "Store",
    "StoredTrial",
    "Trial",
    "describe_network",
    "describe_parent",
    "describe_weights",
    "run_grid",
    "run_trial",
    "summarize",
]
