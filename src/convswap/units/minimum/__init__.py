"""Minimum units: the smaller of two filters."""
