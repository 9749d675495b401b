"""Dendritic activations."""
