"""What units and networks do on real data."""
