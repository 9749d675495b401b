"""Multigrid in channels."""
