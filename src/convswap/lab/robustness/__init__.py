"""Robustness of what a lab trained: its files, and its rows in the summary."""
