"""Nonlocal integral operators and Hamiltonian blocks."""
