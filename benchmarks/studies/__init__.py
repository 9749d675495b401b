"""How units and networks behave on real data."""
