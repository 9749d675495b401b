"""Robustness of a lab's trained networks: its files, and its part of the summary rows."""
