"""What convswap itself costs."""
