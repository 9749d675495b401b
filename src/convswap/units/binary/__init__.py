"""Weights and activations of one to sixteen bits."""
