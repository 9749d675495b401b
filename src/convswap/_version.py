"""The only place that holds the version of convswap."""

__version__ = "0.1.0"
