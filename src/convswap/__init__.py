"""convswap: swap any convolution unit into any CNN."""

from ._version import __version__
from .units import get_unit, list_units, register_unit

__all__ = ["__version__", "get_unit", "list_units", "register_unit"]
