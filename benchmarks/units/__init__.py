"""The cost of units."""
