"""Harmonic networks: rotation equivariant blocks."""
