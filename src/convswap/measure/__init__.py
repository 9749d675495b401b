"""What a model is worth and what it costs: statistics over seeds, parameters, multiply-accumulates, latency."""

from .cost import Cost, CostError, Counts, Parameters, cost, register_cost, unregister_cost
from .latency_report import LatencyReport, Timing, latency
from .memory import Memory, memory, peak_memory

__all__ = [
    "Cost",
    "CostError",
    "Counts",
    "LatencyReport",
    "Memory",
    "Parameters",
    "Timing",
    "cost",
    "latency",
    "memory",
    "peak_memory",
    "register_cost",
    "unregister_cost",
]
