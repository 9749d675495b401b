"""Inter-layer collision."""
