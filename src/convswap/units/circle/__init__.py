"""Circular kernels."""
