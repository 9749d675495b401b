"""The cost of convswap itself."""
