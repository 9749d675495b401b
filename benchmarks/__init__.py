"""Benchmarks, one script per question. Run them from the repository as `python -m benchmarks.FOLDER.SCRIPT`."""
