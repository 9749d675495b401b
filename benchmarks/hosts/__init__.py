"""Does surgery keep the function of foreign networks, and what is refused? `python -m benchmarks.hosts.matrix`."""
