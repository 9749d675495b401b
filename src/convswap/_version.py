"""The one place that says which convswap this is."""

__version__ = "0.1.0"
