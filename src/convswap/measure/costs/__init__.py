"""Parameters, multiply-accumulates and OPs of a model, counted."""
