"""Benchmarks: one script a question; run them from the repository as `python -m benchmarks.FOLDER.SCRIPT`."""
