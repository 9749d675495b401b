"""Selective kernels."""
