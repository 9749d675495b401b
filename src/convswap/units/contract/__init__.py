"""The unit contract: the bases, their hooks, and the registry."""
