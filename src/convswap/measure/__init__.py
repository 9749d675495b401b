"""What a model is worth and what it costs: statistics over seeds, parameters, multiply-accumulates, latency."""
