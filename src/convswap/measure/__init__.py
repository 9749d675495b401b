"""What a model is worth and what it costs: statistics over seeds, parameters, multiply-accumulates, latency."""

from .costs.model import Cost, CostError, Counts, Parameters, cost, register_cost, unregister_cost
from .latencies.report import LatencyReport, Timing, latency
from .peak import Memory, memory, peak_memory

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
